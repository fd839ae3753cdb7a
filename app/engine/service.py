"""The running service: it holds the store's lease and owns every task in one group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from app.domain.errors import StoreUnavailable
from app.engine.board import Board
from app.engine.endings import Endings
from app.engine.jobs import Jobs
from app.engine.lane import Slot
from app.engine.outbox import Outbox
from app.engine.recovery import recover
from app.ports import Blobs, Clock, Executor, Lease, Store

# Once the store is back, jobs are taken again soon.
AWAY_PAUSE_S = 1.0
STOPPING = "the service is stopping"


class Service:
    """``executors`` has one executor for each slot of each lane; ``lease`` is held while the service runs.

    ``lease_s`` is how long another host waits for a silent holder; the heartbeat comes three times as often, and a
    holder whose heartbeat has failed for that long accepts nothing more. ``grace_s`` is how long a stop waits for jobs
    that run. ``on_fatal`` hears of what ends the service.
    """

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        lease: Lease,
        executors: Mapping[str, Sequence[Executor]],
        jobs: Jobs,
        endings: Endings,
        board: Board,
        outbox: Outbox,
        clock: Clock,
        lease_s: float,
        grace_s: float,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.jobs = jobs
        self.endings = endings
        self.board = board
        self.outbox = outbox
        self._store = store
        self._lease = lease
        self._executors = executors
        self._clock = clock
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._hurried = asyncio.Event()
        self._on_fatal = on_fatal
        self._slots = [
            Slot(
                lane=lane,
                number=number,
                executor=executor,
                board=board,
                jobs=jobs,
                endings=endings,
                blobs=blobs,
                clock=clock,
            )
            for lane, of_lane in executors.items()
            for number, executor in enumerate(of_lane)
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the context is open."""
        try:
            self._hold(self._clock.monotonic())
            await recover(
                store=self._store,
                jobs=self.jobs,
                endings=self.endings,
                board=self.board,
                outbox=self.outbox,
                clock=self._clock,
            )
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._guard(task)) for task in self._tasks()]
                self.jobs.open()
                try:
                    yield
                    await self.drain()
                finally:
                    self.jobs.close(STOPPING)
                    for task in tasks:
                        # A group that aborts has cancelled its tasks; once more would disturb how they end.
                        if not task.cancelling():
                            task.cancel()
        finally:
            stops = (executor.stop() for of_lane in self._executors.values() for executor in of_lane)
            await asyncio.gather(self.endings.close(), *stops, return_exceptions=True)

    async def drain(self) -> None:
        """Take and begin no job any more, and return once those that run have ended and their results are delivered.

        It takes no longer than the grace period, and not that long once it is hurried. What still runs then is given
        back when the context of ``running`` ends.
        """
        self.jobs.close(STOPPING)
        enough = [self._quiet(), self._hurried.wait(), self._clock.sleep(self._grace_s)]
        tasks = [asyncio.ensure_future(one) for one in enough]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # There is one grace period, however often a stop is asked for.
            self.hurry()
            for task in tasks:
                task.cancel()

    def hurry(self) -> None:
        """End the grace period at once."""
        self._hurried.set()

    async def _quiet(self) -> None:
        await self.board.idle()
        await self.outbox.settled()

    def _tasks(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        return [*(slot.consume for slot in self._slots), self._deliver, self._beat, self.endings.run]

    async def _guard(self, run: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await run()
        except Exception as error:
            self._on_fatal(error)
            raise

    async def _deliver(self) -> None:
        await self.outbox.run(self.jobs)

    def _hold(self, since: float) -> None:
        self.jobs.held_until(since + self._lease_s)

    async def _beat(self) -> None:
        """Renew the lease, and look after what was left in doubt. Ends the service if the store was taken over."""
        while True:
            pause_s = self._lease_s / 3
            await self._clock.sleep(pause_s if self.jobs.watch.trouble is None else min(pause_s, AWAY_PAUSE_S))
            before = self._clock.monotonic()
            # Away for now; if it stays away, the lease runs out and no job is taken any more.
            with suppress(StoreUnavailable), self.jobs.watch.noting():
                await self._lease.renew()
                self._hold(before)
                await self.jobs.reconcile()
