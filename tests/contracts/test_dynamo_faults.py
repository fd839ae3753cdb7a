"""DynamoDB away, overloaded, lagging or answering rubbish; and a service that dies between two writes."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import Fault, FaultyProxy, always, let_through, once
from store_backends import START, Backend, ManualClock, a_job, a_report, make_backend, running, succeeded

from app.adapters.blobs.local import LocalBlobs
from app.adapters.stores import dynamodb
from app.adapters.stores.dynamo_schema import SCHEMA_KEY
from app.adapters.stores.dynamodb import DynamoStore
from app.domain.errors import Conflict, StaleVersion, StoreAway, StoreUnavailable
from app.domain.job import Job
from app.ports import Holder, JobFilter, Received
from tests.service import free_port

RESULT = Received(webhook_id="msg_1", experiment_id="e", received_at=START, payload={"n": 1})


@pytest.fixture
def dynamo(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """One server is enough here: what differs is between it and the store."""
    return make_backend("dynamodb-moto", request, tmp_path / "data")


@pytest.fixture
async def proxy(dynamo: Backend) -> AsyncIterator[FaultyProxy]:
    assert dynamo.endpoint is not None
    async with FaultyProxy(dynamo.endpoint) as started:
        yield started


@pytest.fixture
async def store(dynamo: Backend, proxy: FaultyProxy) -> AsyncIterator[DynamoStore]:
    """A store whose requests go through the proxy. Making the table may take a busy server its time."""
    async with replace(dynamo, endpoint=proxy.endpoint).store() as opened:
        assert isinstance(opened, DynamoStore)
        opened.table.patience_s = 0.4
        yield opened


async def _unfinished(store: DynamoStore) -> list[Job]:
    return [job async for job in store.unfinished()]


async def test_a_store_that_is_away_is_unavailable_and_comes_back(store: DynamoStore, proxy: FaultyProxy) -> None:
    faults: tuple[Fault, ...] = ("refuse", "hang", "garbage", "500", "throttle", "half reply")
    for fault in faults:
        proxy.plan = let_through
        job = await store.add(a_job(fault, experiment_id="e"))
        proxy.plan = always(fault)
        outcomes = await asyncio.gather(
            store.add(a_job("two")),
            store.commit(running(job)),
            store.get(fault),
            store.newest("e"),
            store.page(JobFilter(), limit=1),
            _unfinished(store),
            store.receive(RESULT),
            store.received("e"),
            store.experiments(limit=1),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [StoreAway] * len(outcomes), fault
        proxy.plan = let_through
        stored = await store.get(fault)
        assert stored is not None
        # Of an answer that was cut, the write behind it is there: nothing or everything, and here everything.
        assert stored == (replace(running(job), version=2) if fault == "half reply" else job)
        assert (await store.commit(running(stored))).version == stored.version + 1


async def test_one_fault_is_not_noticed(store: DynamoStore, proxy: FaultyProxy) -> None:
    faults: tuple[Fault, ...] = ("refuse", "500", "throttle", "half reply", "garbage")
    for fault in faults:
        proxy.plan = once("PutItem", fault, after=1)
        added = await store.add(a_job(fault, experiment_id="e"))
        assert await store.newest("e") == added


async def test_a_lost_answer_is_found_out(store: DynamoStore, proxy: FaultyProxy) -> None:
    """The second try meets what the first one wrote, and must know it for its own."""
    for after in (0, 1):
        proxy.plan = once("PutItem", "lose reply", after=after)
        added = await store.add(a_job(f"j{after}", experiment_id="e"))
        assert await store.newest("e") == added
        proxy.plan = once("PutItem", "lose reply", after=after)
        result = replace(RESULT, webhook_id=f"msg_{after}", received_at=START + after)
        assert await store.receive(result) is True
        assert await store.received("e") == result
    proxy.plan = once("PutItem", "lose reply")
    committed = await store.commit(running(added))
    assert await store.get(added.id) == committed
    assert await store.receive(result) is False


async def test_a_lost_answer_hides_no_rival(store: DynamoStore, proxy: FaultyProxy) -> None:
    job = await store.add(a_job("one"))
    proxy.plan = once("PutItem", "refuse")
    await store.commit(running(job))
    proxy.plan = once("PutItem", "lose reply")
    with pytest.raises(StaleVersion):
        await store.commit(replace(job, cancel_requested=True))
    proxy.plan = once("PutItem", "lose reply")
    with pytest.raises(Conflict):
        await store.add(job)


async def test_a_service_that_dies_between_pointer_and_job(store: DynamoStore) -> None:
    first = await store.add(a_job("first", experiment_id="e"))
    for n in range(3):
        await _die_after_one_put(store, store.add(a_job(f"lost-{n}", experiment_id="e")))
        assert await store.newest("e") == first
        assert await store.get(f"lost-{n}") is None
        assert await _unfinished(store) == [first]
    again = await store.add(a_job("lost-1", experiment_id="e"))
    assert await store.newest("e") == again
    later = await store.add(a_job("later", experiment_id="e"))
    assert await store.newest("e") == later
    pointer = await store.table.get("experiment#e")
    assert pointer is not None and len(json.loads(str(pointer["ids"]))) <= 6


async def test_many_deaths_push_no_real_job_out(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamodb, "POINTER_IDS", 4)
    first = await store.add(a_job("first", experiment_id="e"))
    for n in range(7):
        await _die_after_one_put(store, store.add(a_job(f"lost-{n}", experiment_id="e")))
    assert await store.newest("e") == first


async def test_a_service_that_dies_between_result_and_pointer(store: DynamoStore) -> None:
    await _die_after_one_put(store, store.receive(RESULT))
    assert await store.received("e") is None
    # Its sender had no answer and sends it again, later.
    assert await store.receive(replace(RESULT, received_at=START + 60)) is False
    assert await store.received("e") == RESULT
    assert list(await store.experiments(limit=5)) == ["e"]


async def _die_after_one_put(store: DynamoStore, step: Coroutine[Any, Any, Any]) -> None:
    """Carry out the step, and end it at its second put. The store keeps nothing in memory that a new one would lack."""
    put, puts = store.table.put, itertools.count()

    async def dying(*asked: Any) -> bool:
        if next(puts):
            raise asyncio.CancelledError
        return await put(*asked)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(asyncio.CancelledError):
        patch.setattr(store.table, "put", dying)
        await step


async def test_recovery_does_not_rely_on_the_index(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {f"j{n}": await store.add(a_job(f"j{n}")) for n in range(6)}
    ended = await store.commit(succeeded(jobs["j5"], a_report(), next_at=None))
    newer = await store.commit(running(jobs["j0"]))

    async def lagging(index: str, terms: Sequence[Any]) -> AsyncIterator[dict[str, str]]:
        """It has not heard of j3 and j4, nor that j5 has ended; and it has one that was deleted."""
        for name in ("j0", "j1", "j2", ended.id, "deleted"):
            yield {"job_id": name}

    monkeypatch.setattr(store.table, "query", lagging)
    found = await _unfinished(store)
    assert sorted(job.id for job in found) == ["j0", "j1", "j2", "j3", "j4"]
    assert newer in found


async def test_reports_over_300_kb_are_compressed_blobs(dynamo: Backend, store: DynamoStore) -> None:
    small, large = a_report(note="x" * 290_000), a_report(note="x" * 310_000)
    for name, report in (("small", small), ("large", large)):
        await store.commit(succeeded(await store.add(a_job(name)), report))
    item = await store.table.get("small")
    assert item is not None and len(str(item["report"])) > 290_000 and "report_blob" not in item
    item = await store.table.get("large")
    assert item is not None and "report" not in item
    assert 0 < len(await dynamo.blobs().get(str(item["report_blob"]))) < 10_000
    files = [path for path in (dynamo.data / "blobs").rglob("*") if path.is_file()]
    assert [path.name for path in files] == [item["report_blob"]]


async def test_a_report_in_another_data_folder_is_named(dynamo: Backend, store: DynamoStore) -> None:
    await store.commit(succeeded(await store.add(a_job("one")), a_report(note="x" * 310_000)))
    elsewhere = replace(dynamo, data=dynamo.data.with_name("elsewhere"))
    async with elsewhere.store() as other:
        with pytest.raises(StoreUnavailable, match="data folder"):
            await other.get("one")
        assert (await other.page(JobFilter(), limit=1)).jobs[0].id == "one"


async def test_a_job_is_one_item_of_the_promised_shape(store: DynamoStore) -> None:
    job = await store.commit(running(await store.add(a_job("one", experiment_id="e"))))
    job = await store.commit(succeeded(job, a_report()))
    item = await store.table.get("one")
    assert item is not None
    assert (item["job_id"], item["version"], item["epoch"], item["status"]) == ("one", 3, 0, "succeeded")
    assert (item["lane"], item["experiment_id"], float(item["created_at"])) == ("cpu", "e", START)
    document = json.loads(str(item["document"]))
    assert document["delivery"]["next_at"] == START + 9 and len(document["events"]) == 1
    assert "unfinished" in item
    await store.commit(succeeded(job, a_report(), next_at=None))
    item = await store.table.get("one")
    assert item is not None and "unfinished" not in item


async def test_tables_that_cannot_be_used_are_refused(dynamo: Backend, store: DynamoStore) -> None:
    blobs = LocalBlobs(dynamo.data)
    absent = DynamoStore(table="no-such-table", endpoint=dynamo.endpoint, region=None, blobs=blobs)
    with pytest.raises(StoreUnavailable, match="no table 'no-such-table'"):
        await absent.open()
    nobody = DynamoStore(
        table="jobs", endpoint=f"http://127.0.0.1:{free_port()}", region=None, blobs=blobs, patience_s=0.5
    )
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await nobody.open()
    name = f"{dynamo.table}-foreign"
    await store.table.control(
        "create_table",
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    with pytest.raises(StoreUnavailable, match="not Bitlane's"):
        await DynamoStore(table=name, endpoint=dynamo.endpoint, region=None, blobs=blobs, create=True).open()
    stamp = await store.table.get(SCHEMA_KEY)
    assert stamp is not None and await store.table.swap({"job_id": SCHEMA_KEY, "version": 99}, stamp)
    with pytest.raises(StoreUnavailable, match="schema 99"):
        await DynamoStore(table=dynamo.table, endpoint=dynamo.endpoint, region=None, blobs=blobs).open()


async def test_a_heartbeat_whose_answer_was_lost_keeps_the_lease(dynamo: Backend, proxy: FaultyProxy) -> None:
    clock = ManualClock()
    async with replace(dynamo, endpoint=proxy.endpoint).lease(clock) as lease:
        await lease.acquire(Holder(worker_id="w", host="h", data=str(dynamo.data), pid=1))
        proxy.plan = once("PutItem", "lose reply")
        await lease.renew()
        await lease.renew()
        await lease.release()
