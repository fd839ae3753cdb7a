"""What the port ``Store`` promises, held against every store."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from store_backends import START, Backend, a_job, a_report, running, succeeded

from app.adapters.stores import dynamodb, sqlite
from app.adapters.stores.dynamodb import DynamoStore
from app.domain.errors import Conflict, InvalidSpec, StaleVersion
from app.domain.job import Job, Status
from app.ports import JobFilter, Page, Store

ALL = JobFilter()
HOSTILE_IDS = (
    "'; DROP TABLE jobs; --",
    'quo"te \\ back',
    "#",
    "lease#holder",
    "schema#bitlane",
    "experiment#x",
    "received#1",
    "job#job#x",
    "../../etc/passwd",
    "ünï-日本語-\U0001f3ac-\u202e",
    "nul\x00inside",
    " ",
    "%s{0}:p",
    "long-" + "x" * 5000,
    "long-" + "日" * 700,
)

# Not base64, not JSON, and JSON of: [], [1,2], null, ["a","b"], [1e999,"a"], [true,"a"], [1,"\ud800"]
BAD_CURSORS = (
    *("", "x", "!!!", "é", "AAAA", "A" * 10**5),
    *("W10", "WzEsMl0", "bnVsbA", "WyJhIiwiYiJd", "WzFlOTk5LCJhIl0", "W3RydWUsImEiXQ", "WzEsIlx1ZDgwMCJd"),
)


async def _unfinished(store: Store) -> list[Job]:
    return [job async for job in store.unfinished()]


async def _all_pages(store: Store, wanted: JobFilter, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor = None
    while True:
        page = await store.page(wanted, limit=limit, cursor=cursor)
        pages.append([job.id for job in page.jobs])
        if page.cursor is None:
            return pages
        cursor = page.cursor


async def test_a_new_job_is_there_at_version_1(store: Store) -> None:
    added = await store.add(a_job("one"))
    assert added == a_job("one", version=1)
    assert await store.get("one") == added
    assert await store.get("two") is None
    assert await store.newest("no such experiment") is None


async def test_a_taken_id_is_a_conflict_and_changes_nothing(store: Store) -> None:
    first = await store.add(a_job("one", experiment_id="e"))
    second = await store.add(a_job("two", experiment_id="e"))
    for experiment_id in ("e", "other"):
        with pytest.raises(Conflict, match="one"):
            await store.add(a_job("one", experiment_id=experiment_id, created_at=START + 5))
    assert await store.get("one") == first
    assert await store.newest("e") == second
    assert await store.newest("other") is None


async def test_a_commit_replaces_the_whole_job(store: Store) -> None:
    job = await store.add(a_job("one"))
    job = await store.commit(running(job))
    assert job.version == 2
    assert await store.get("one") == job
    job = await store.commit(succeeded(job, a_report()))
    assert job.version == 3
    assert await store.get("one") == job


async def test_floats_come_back_bit_by_bit(store: Store) -> None:
    job = await store.commit(succeeded(await store.add(a_job("one")), a_report()))
    again = await store.get("one")
    assert again is not None and again.report is not None
    # Equality does not tell -0.0 from 0.0, nor 1 from 1.0; text does.
    assert repr(again) == repr(job)


async def test_only_the_stored_version_can_be_committed(store: Store) -> None:
    job = await store.add(a_job("one"))
    newer = await store.commit(running(job))
    for version in (0, 1, 3):
        with pytest.raises(StaleVersion, match="one"):
            await store.commit(replace(newer, version=version, cancel_requested=True))
    assert await store.get("one") == newer
    with pytest.raises(StaleVersion):
        await store.commit(a_job("never added", version=1))
    assert await store.get("never added") is None


async def test_of_50_racers_exactly_one_commits(store: Store) -> None:
    job = await store.add(a_job("one"))
    bystanders = [await store.add(a_job(f"by-{n}")) for n in range(3)]
    racers = [replace(job, platform_failures=n) for n in range(50)]
    outcomes = await asyncio.gather(
        *(store.commit(racer) for racer in racers),
        *(store.commit(other) for other in bystanders),
        return_exceptions=True,
    )
    won = [outcome for outcome in outcomes[:50] if isinstance(outcome, Job)]
    assert len(won) == 1
    assert all(isinstance(outcome, Job | StaleVersion) for outcome in outcomes[:50])
    assert all(isinstance(outcome, Job) for outcome in outcomes[50:]), "a stale commit took others with it"
    assert await store.get("one") == won[0]


async def test_of_20_racers_exactly_one_adds(store: Store) -> None:
    racers = [a_job("one", experiment_id="e", platform_failures=n) for n in range(20)]
    outcomes = await asyncio.gather(*(store.add(racer) for racer in racers), return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, Job)]
    assert len(won) == 1
    assert all(isinstance(outcome, Job | Conflict) for outcome in outcomes)
    assert await store.get("one") == won[0] == await store.newest("e")


async def test_adds_to_one_experiment_at_once_all_succeed(store: Store) -> None:
    added = await asyncio.gather(*(store.add(a_job(f"j{n}", experiment_id="e")) for n in range(8)))
    assert await store.newest("e") in added
    last = await store.add(a_job("last", experiment_id="e"))
    assert await store.newest("e") == last


async def test_a_later_holder_shuts_out_the_former(backend: Backend) -> None:
    async with backend.store(epoch=4) as former, backend.store(epoch=5) as later:
        seen = await former.add(a_job("one"))
        taken = await later.commit(running(seen))
        with pytest.raises(StaleVersion):
            await former.commit(replace(taken, cancel_requested=True))
        assert await later.get("one") == taken
        untouched = await former.add(a_job("two"))
        assert (await former.commit(untouched)).version == 2
        assert (await later.commit(taken)).version == 3


async def test_the_newest_of_an_experiment_is_the_one_added_last(store: Store) -> None:
    old = await store.add(a_job("z", experiment_id="e", created_at=START + 10))
    assert await store.newest("e") == old
    new = await store.add(a_job("a", experiment_id="e", created_at=START))
    assert await store.newest("e") == new
    await store.commit(running(old))
    finished = await store.commit(succeeded(new, a_report()))
    assert await store.newest("e") == finished


async def test_the_same_experiment_of_another_owner_is_another(store: Store) -> None:
    mine = await store.add(a_job("mine", experiment_id="e", owner="alice"))
    theirs = await store.add(a_job("theirs", experiment_id="e", owner="bob", created_at=START + 1))
    local = await store.add(a_job("local", experiment_id="alice/e"))
    assert await store.newest("e", "alice") == mine
    assert await store.newest("e", "bob") == theirs
    assert await store.newest("e") is None
    assert await store.newest("alice/e") == local
    assert (await store.page(JobFilter(owner="alice"), limit=5)).jobs == (mine,)
    assert (await store.page(JobFilter(owner="bob", experiment_id="e"), limit=5)).jobs == (theirs,)
    assert (await store.page(JobFilter(experiment_id="e"), limit=5)).jobs == (theirs, mine)
    assert (await store.page(JobFilter(owner="carol"), limit=5)).jobs == ()


async def test_pages_are_newest_first_and_complete(store: Store) -> None:
    times = {f"j{n:02}": START + n // 3 + 0.1 for n in range(20)}
    for job_id in sorted(times, key=lambda of: of[::-1]):
        await store.add(a_job(job_id, created_at=times[job_id]))
    for limit in (3, 20, 50):
        pages = await _all_pages(store, ALL, limit)
        ids = [job_id for page in pages for job_id in page]
        assert sorted(ids) == sorted(times)
        assert [times[job_id] for job_id in ids] == sorted(times.values(), reverse=True)
        assert all(len(page) == limit for page in pages[:-1]) and pages[-1]
    page = await store.page(ALL, limit=5)
    await store.add(a_job("newcomer", created_at=START + 100))
    after = await store.page(ALL, limit=20, cursor=page.cursor)
    assert len(after.jobs) == 15 and "newcomer" not in [job.id for job in after.jobs]


async def test_pages_leave_the_reports_out(store: Store) -> None:
    job = await store.commit(succeeded(await store.add(a_job("one")), a_report()))
    assert await store.page(ALL, limit=10) == Page(jobs=(replace(job, report=None),))


async def test_filters_must_all_match(store: Store) -> None:
    for n in range(12):
        job = await store.add(a_job(f"j{n:02}", experiment_id=f"e{n % 2}", created_at=START + n))
        if n % 3:
            job = await store.commit(running(job, lane="gpu" if n % 3 == 1 else "cpu"))
        if n == 7:
            again = await store.commit(replace(job, status=Status.QUEUED))
            await store.commit(running(again, lane="cpu"))
    expected = {
        JobFilter(state=Status.QUEUED): ["j09", "j06", "j03", "j00"],
        JobFilter(lane="gpu"): ["j10", "j04", "j01"],
        JobFilter(lane="cpu"): ["j11", "j08", "j07", "j05", "j02"],
        JobFilter(experiment_id="e1"): ["j11", "j09", "j07", "j05", "j03", "j01"],
        JobFilter(state=Status.RUNNING, lane="cpu", experiment_id="e1"): ["j11", "j07", "j05"],
        JobFilter(state=Status.FAILED): [],
        JobFilter(lane="c"): [],
    }
    for wanted, ids in expected.items():
        assert [job_id for page in await _all_pages(store, wanted, 2) for job_id in page] == ids, wanted


async def test_a_cursor_that_is_not_ours_is_named(store: Store) -> None:
    for cursor in BAD_CURSORS:
        with pytest.raises(InvalidSpec) as caught:
            await store.page(ALL, limit=1, cursor=cursor)
        assert [error.field for error in caught.value.errors] == ["cursor"]


async def test_unfinished_are_those_that_a_restart_must_look_at(store: Store) -> None:
    queued = await store.add(a_job("queued"))
    claimed = await store.commit(running(await store.add(a_job("running"))))
    due = await store.commit(succeeded(await store.add(a_job("due")), a_report()))
    await store.commit(succeeded(await store.add(a_job("done")), a_report(), next_at=None))
    once_due = await store.commit(succeeded(await store.add(a_job("delivered")), a_report()))
    await store.commit(succeeded(once_due, a_report(), next_at=None))
    found = {job.id: job for job in await _unfinished(store)}
    assert found == {"queued": queued, "running": claimed, "due": replace(due, report=None)}


async def test_unfinished_yields_many_each_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamodb, "BATCH_GET", 7)
    monkeypatch.setattr(sqlite, "RECOVERY_BATCH", 7)
    ids = {f"j{n:03}" for n in range(25)}
    await asyncio.gather(*(store.add(a_job(job_id)) for job_id in ids))
    found = [job.id for job in await _unfinished(store)]
    assert sorted(found) == sorted(ids)


async def test_hostile_ids_are_only_names(store: Store) -> None:
    jobs = {}
    for hostile in HOSTILE_IDS:
        jobs[hostile] = await store.add(a_job(hostile, experiment_id=hostile))
    for hostile, job in jobs.items():
        assert await store.get(hostile) == await store.newest(hostile) == job
        jobs[hostile] = await store.commit(running(job))
    for hostile, job in jobs.items():
        assert await store.get(hostile) == job
        assert (await store.page(JobFilter(experiment_id=hostile), limit=5)).jobs == (job,)
    listed = [job_id for page in await _all_pages(store, ALL, 2) for job_id in page]
    assert sorted(listed) == sorted(HOSTILE_IDS)
    assert {job.id: job for job in await _unfinished(store)} == jobs


async def test_reads_of_names_that_nobody_has(store: Store) -> None:
    for name in ("", "#", "lease#holder", "schema#bitlane", "x" * 10_000):
        assert await store.get(name) is None
        assert await store.newest(name) is None
        assert (await store.page(JobFilter(experiment_id=name), limit=1)).jobs == ()


async def test_large_reports_and_documents_come_back_whole(store: Store) -> None:
    for name, note in (("small", 250_000), ("just over", 300_001), ("large", 3_000_000)):
        report = a_report(note="é" + "x" * note)
        job = await store.commit(succeeded(await store.add(a_job(name)), report))
        assert await store.get(name) == job
    wide = await store.add(a_job("wide", spec=replace(a_job("").spec, legacy={"hypothesis": "日" * 150_000})))
    assert await store.get("wide") == wide
    assert wide in (await store.page(ALL, limit=10)).jobs
    assert wide in await _unfinished(store)


async def test_the_largest_job_fits_into_an_item(dynamo: Backend) -> None:
    """Report and document just under what is kept in the item, and long names."""
    spec = replace(a_job("").spec, legacy={"hypothesis": "x" * 59_000})
    async with dynamo.store() as store:
        assert isinstance(store, DynamoStore)
        job = await store.add(a_job("i" * 900, experiment_id="e" * 900, spec=spec))
        job = await store.commit(succeeded(running(job, lane="l" * 32), a_report(note="x" * 298_000)))
        item = await store.table.get(job.id)
        assert item is not None and {"document", "report"} <= set(item)
        assert await store.get(job.id) == job


async def test_what_could_not_be_read_again_is_refused(store: Store) -> None:
    deep: list[object] = []
    for _ in range(230):
        deep = [deep]
    for value in (deep, "\ud800", 10**4400):
        with pytest.raises(InvalidSpec):
            await store.add(a_job("bad", spec=replace(a_job("").spec, rate_points=({"value": value},))))
        job = await store.add(a_job(f"job {id(value)}"))
        with pytest.raises(InvalidSpec):
            await store.commit(succeeded(job, replace(a_report(), self_reported={"value": value})))
    assert await store.get("bad") is None
    assert len(await _unfinished(store)) == 3


async def test_what_was_acknowledged_outlives_a_kill(backend: Backend) -> None:
    script = Path(__file__).with_name("store_writer.py")
    writer = await asyncio.create_subprocess_exec(
        sys.executable, str(script), backend.dump(), stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    acknowledged: list[tuple[str, int]] = []
    try:
        while len(acknowledged) < 40:
            line = await writer.stdout.readline()
            assert line, "the writer ended by itself"
            job_id, version = line.decode().split()
            acknowledged.append((job_id, int(version)))
    finally:
        writer.kill()
        rest = (await writer.stdout.read()).decode().splitlines()
        await writer.wait()
    acknowledged += [(line.split()[0], int(line.split()[1])) for line in rest if len(line.split()) == 2]
    async with backend.store() as store:
        open_ids = {job.id for job in await _unfinished(store)}
        for job_id, version in dict(acknowledged).items():
            job = await store.get(job_id)
            assert job is not None and job.version >= version
            assert job_id in open_ids
            newest = await store.newest(job.experiment_id)
            assert newest is not None and newest.experiment_id == job.experiment_id
        assert await store.add(a_job("after the kill"))
