"""What the port ``Inbox`` promises, held against every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from store_backends import START, Backend

from app.ports import Inbox, Received

PAYLOAD = {"experiment_id": "e", "metrics": {"psnr_db": 0.1, "ssim": None, "n": [1, 1.0, -0.0, True]}, "é": "#'\""}


def _received(webhook_id: str, **changes: object) -> Received:
    first = Received(webhook_id=webhook_id, experiment_id="e", received_at=START, payload=dict(PAYLOAD))
    return replace(first, **changes)  # type: ignore[arg-type]


async def test_a_result_is_kept_once(store: Inbox) -> None:
    assert await store.received("e") is None
    assert await store.experiments(limit=5) == []
    assert await store.receive(_received("msg_1")) is True
    assert await store.receive(_received("msg_1", payload={"other": 1}, received_at=START + 5)) is False
    kept = await store.received("e")
    assert repr(kept) == repr(_received("msg_1"))


async def test_of_20_repeats_at_once_one_is_kept(store: Inbox) -> None:
    repeats = [_received("msg_1", payload={"n": n}) for n in range(20)]
    kept = await asyncio.gather(*(store.receive(repeat) for repeat in repeats))
    assert kept.count(True) == 1
    assert await store.received("e") == repeats[kept.index(True)]


async def test_the_newest_result_of_an_experiment_is_shown(store: Inbox) -> None:
    await store.receive(_received("b", received_at=START + 1))
    await store.receive(_received("c", received_at=START + 2))
    await store.receive(_received("late", received_at=START))
    shown = await store.received("e")
    assert shown is not None and shown.webhook_id == "c"
    await store.receive(_received("a", received_at=START + 2))
    shown = await store.received("e")
    assert shown is not None and shown.webhook_id == "a", "of two at the same time, the one that came later"
    await store.receive(_received("c", received_at=START + 2))
    assert await store.received("e") == shown


async def test_experiments_are_listed_newest_first(store: Inbox) -> None:
    hostile = "#'\"-é" + "x" * 3000
    for n, experiment_id in enumerate(["e1", hostile, "e3", "e1"]):
        await store.receive(_received(f"msg_{n}", experiment_id=experiment_id, received_at=START + n))
    assert list(await store.experiments(limit=10)) == ["e1", "e3", hostile]
    assert list(await store.experiments(limit=2)) == ["e1", "e3"]
    assert await store.received(hostile) == _received("msg_1", experiment_id=hostile, received_at=START + 1)


async def test_large_and_hostile_results_come_back(store: Inbox) -> None:
    for webhook_id in ("#", "lease#holder", "'; --", "w" * 4000):
        big = _received(webhook_id, experiment_id=webhook_id, payload={"log": "日" * 200_000})
        assert await store.receive(big)
        assert await store.received(webhook_id) == big


async def test_results_outlive_the_store(backend: Backend) -> None:
    async with backend.store() as store:
        await store.receive(_received("msg_1"))
    async with backend.store(epoch=3) as store:
        assert await store.receive(_received("msg_1")) is False
        assert await store.received("e") == _received("msg_1")
