"""What the port ``Lease`` promises: one holder, told from the dead by a file lock here and by heartbeats elsewhere."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from store_backends import Backend, ManualClock, a_job, running

from app.adapters.stores.dynamo_lease import LEASE_KEY
from app.adapters.stores.dynamodb import DynamoStore
from app.domain.errors import StaleVersion, StoreHeld
from app.ports import Holder, Lease

LEASE_S = 15.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def _holder(backend: Backend, **changes: object) -> Holder:
    holder = Holder(worker_id="worker-1", host="host-1", data=str(backend.data), pid=4711)
    return replace(holder, **changes)  # type: ignore[arg-type]


async def test_a_second_service_is_told_who_holds_the_store(backend: Backend, clock: ManualClock) -> None:
    async with backend.lease(clock) as first, backend.lease(clock) as second:
        await first.acquire(_holder(backend))
        clock.time += 7
        with pytest.raises(StoreHeld) as caught:
            await second.acquire(_holder(backend, worker_id="worker-2", pid=4712))
        for fact in ("worker-1", "host-1", "4711", str(backend.data), "7 s ago"):
            assert fact in str(caught.value)
        await first.renew()
        await second.release()
        await first.renew()
        await first.release()


async def test_epochs_grow_with_every_change_of_hands(backend: Backend, clock: ManualClock) -> None:
    epochs = []
    async with backend.lease(clock) as first, backend.lease(clock) as second:
        for lease in (first, second, second, first):
            epochs.append(await lease.acquire(_holder(backend)))
            await lease.renew()
            await lease.release()
    assert epochs == sorted(set(epochs))


async def test_release_is_safe_at_any_time(backend: Backend, clock: ManualClock) -> None:
    async with backend.lease(clock) as lease:
        await lease.release()
        await lease.acquire(_holder(backend))
        await lease.release()
        await lease.release()
        with pytest.raises(StoreHeld):
            await lease.renew()


async def test_an_epoch_is_never_below_one_in_the_rows(backend: Backend, clock: ManualClock) -> None:
    """Also where the lease itself was lost: the rows of before must still be writable."""
    async with backend.lease(clock) as lease:
        for _ in range(3):
            before = await lease.acquire(_holder(backend))
            await lease.release()
    (backend.data / "bitlane.lock").unlink()
    clock.time += 60
    async with backend.store(epoch=before) as store:
        job = await store.add(a_job("one"))
        if isinstance(store, DynamoStore):
            await store.table.control("delete_item", TableName=backend.table, Key={"job_id": {"S": LEASE_KEY}})
    async with backend.lease(clock) as lease:
        after = await lease.acquire(_holder(backend))
        await lease.release()
    async with backend.store(epoch=after) as store:
        assert await store.commit(running(job))


async def test_a_killed_holder_on_this_host_is_followed_at_once(backend: Backend, clock: ManualClock) -> None:
    script = Path(__file__).with_name("lease_holder.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), backend.dump(), str(clock.now()), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        epoch = int(await process.stdout.readline())
        async with backend.lease(clock) as lease:
            with pytest.raises(StoreHeld, match=f"process {process.pid}"):
                await lease.acquire(_holder(backend))
            process.kill()
            await process.wait()
            assert await lease.acquire(_holder(backend)) > epoch
            assert clock.now() == ManualClock().now(), "it waited"
            await lease.release()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_lock_file_that_was_replaced_ends_the_lease(backend: Backend, clock: ManualClock) -> None:
    async with backend.lease(clock) as lease:
        await lease.acquire(_holder(backend))
        (backend.data / "bitlane.lock").unlink()
        with pytest.raises(StoreHeld):
            await lease.renew()
        await lease.release()


class Hosts:
    """Leases of several hosts on one table."""

    def __init__(self, backend: Backend, clock: ManualClock, stack: AsyncExitStack) -> None:
        self._backend, self._clock, self._stack = backend, clock, stack

    async def lease(self, host: str) -> tuple[Lease, Holder]:
        data = self._backend.data.with_name(f"data-of-{host}")
        lease = await self._stack.enter_async_context(self._backend.lease(self._clock, data=data))
        self._stack.push_async_callback(lease.release)
        return lease, Holder(worker_id=f"worker-of-{host}", host=host, data=str(data), pid=1)


async def test_another_host_waits_for_the_heartbeats_to_end(dynamo: Backend, clock: ManualClock) -> None:
    async with AsyncExitStack() as stack:
        hosts = Hosts(dynamo, clock, stack)
        (one, holder_one), (two, holder_two) = await hosts.lease("one"), await hosts.lease("two")
        epoch = await one.acquire(holder_one)
        for _ in range(5):
            clock.time += LEASE_S - 1
            with pytest.raises(StoreHeld, match="worker-of-one"):
                await two.acquire(holder_two)
            await one.renew()
        clock.time += LEASE_S + 1
        later = await two.acquire(holder_two)
        assert later > epoch
        with pytest.raises(StoreHeld, match="worker-of-two"):
            await one.renew()
        await two.renew()
        await one.release()
        await two.renew()
        async with dynamo.store(epoch=epoch) as former, dynamo.store(epoch=later) as store:
            job = await store.commit(await former.add(a_job("one")))
            with pytest.raises(StaleVersion):
                await former.commit(job)


async def test_a_holder_with_a_slow_clock_is_not_robbed(dynamo: Backend, clock: ManualClock) -> None:
    """Its heartbeats look old here, but while they are watched another one comes."""

    class Watching(ManualClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            await one.renew()

    for skew_s in (-3600.0, 3600.0):
        clock.time = ManualClock().now() + skew_s
        async with AsyncExitStack() as stack:
            one, holder_one = await Hosts(dynamo, clock, stack).lease("one")
            two, holder_two = await Hosts(dynamo, Watching(), stack).lease("two")
            await one.acquire(holder_one)
            with pytest.raises(StoreHeld, match="worker-of-one"):
                await two.acquire(holder_two)
            await one.renew()


async def test_of_several_hosts_at_once_one_gets_a_free_store(dynamo: Backend, clock: ManualClock) -> None:
    async with AsyncExitStack() as stack:
        hosts = Hosts(dynamo, clock, stack)
        pairs = [await hosts.lease(f"h{n}") for n in range(5)]
        outcomes = await asyncio.gather(*(lease.acquire(holder) for lease, holder in pairs), return_exceptions=True)
        assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, StoreHeld) for outcome in outcomes) == 4
