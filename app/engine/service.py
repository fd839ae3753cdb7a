"""The running service: it holds the store's lease and owns every task in one group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager

from app.domain.errors import PlatformError, StoreHeld
from app.engine.board import Board
from app.engine.feed import Feed
from app.engine.jobs import Jobs
from app.engine.lane import Slot
from app.engine.outbox import Outbox
from app.engine.recovery import recover
from app.ports import Blobs, Clock, Executor, Lease, Store


class Service:
    """``executors`` has one executor for each slot of each lane; ``lease`` is held while the service runs.

    ``lease_s`` is how long another host waits for a silent holder; the heartbeat comes three times as often, and a
    holder whose heartbeat has failed for that long accepts nothing more. ``on_fatal`` hears of what ends the service.
    """

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        lease: Lease,
        executors: Mapping[str, Sequence[Executor]],
        jobs: Jobs,
        board: Board,
        outbox: Outbox,
        feed: Feed,
        clock: Clock,
        lease_s: float,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.jobs = jobs
        self.board = board
        self.outbox = outbox
        self._store = store
        self._lease = lease
        self._executors = executors
        self._clock = clock
        self._lease_s = lease_s
        self._on_fatal = on_fatal
        self.store_trouble: str | None = None
        self._slots = [
            Slot(
                lane=lane,
                number=number,
                executor=executor,
                board=board,
                jobs=jobs,
                blobs=blobs,
                feed=feed,
                clock=clock,
            )
            for lane, of_lane in executors.items()
            for number, executor in enumerate(of_lane)
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the context is open."""
        try:
            await recover(store=self._store, jobs=self.jobs, board=self.board, outbox=self.outbox, clock=self._clock)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._guard(task)) for task in self._tasks()]
                self.jobs.closed = None
                try:
                    yield
                finally:
                    self.jobs.closed = "the service is stopping"
                    for task in tasks:
                        task.cancel()
        finally:
            await asyncio.gather(*(executor.stop() for of_lane in self._executors.values() for executor in of_lane))

    def _tasks(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        return [*(slot.consume for slot in self._slots), self._deliver, self._beat]

    async def _guard(self, run: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await run()
        except Exception as error:
            self._on_fatal(error)
            raise

    async def _deliver(self) -> None:
        await self.outbox.run(self.jobs)

    async def _beat(self) -> None:
        last = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._lease_s / 3)
            try:
                await self._lease.renew()
            except StoreHeld:
                raise
            except PlatformError as error:
                self.store_trouble = str(error)
                if self._clock.monotonic() - last > self._lease_s:
                    self.jobs.closed = f"the store has not answered for {self._lease_s:g} s: {error}"
            else:
                last = self._clock.monotonic()
                self.store_trouble = None
                self.jobs.closed = None
