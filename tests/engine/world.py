"""An engine with a real store, real blobs and real tasks; time, the evaluator and the orchestrator are stood in for."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from app.adapters.blobs.local import LocalBlobs
from app.adapters.spool import FileSpool
from app.adapters.stores.lease import FileLease
from app.adapters.stores.sqlite import SqliteStore
from app.domain.delivery import Answer
from app.domain.errors import StoreAway, StoreUnavailable, WorkerLost
from app.domain.evaluation import Clip, Report, Suite
from app.domain.job import ErrorType, Fault, Job
from app.domain.lanes import parse_lanes
from app.engine.board import Board
from app.engine.bounds import Admission, Bounds
from app.engine.endings import Endings
from app.engine.feed import Feed
from app.engine.ids import Ids
from app.engine.intake import Intake, Submission
from app.engine.jobs import Jobs, Targets
from app.engine.outbox import Outbox
from app.engine.service import Service
from app.ports import Failed, Holder, Inspection, Outcome, Progress, Ready, Succeeded, Work

CLIP = Clip(name="c", file="c.y4m", file_sha256="f" * 64, sha256="a" * 64, width=64, height=64, frames=2)
REPORT = Report(points=())


class SimClock:
    """Time that passes only when the test lets it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), wake))
        await wake

    def skip_to_next(self) -> None:
        """Move on to the moment at which the next sleeper wakes."""
        while self._sleepers:
            at, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                self._now = max(self._now, at)
                wake.set_result(None)
                return

    def advance(self, seconds: float) -> None:
        self._now += seconds


class FakeExecutor:
    """An evaluator whose attempts end when the test says so. ``script`` gives outcomes that come at once."""

    def __init__(self, lane: str, slot: int) -> None:
        self.lane, self.slot = lane, slot
        self.running: dict[str, asyncio.Future[Outcome]] = {}
        self.ran: list[str] = []
        self.cancelled: list[str] = []
        self.script: list[Outcome | Exception] = []
        self.cold: list[Exception] = []
        self.death = asyncio.Event()
        self.stopped = False

    async def warm(self) -> Ready:
        if self.cold:
            raise self.cold.pop()
        self.death.clear()
        return Ready(device="cpu", device_name="a CPU")

    async def gone(self) -> None:
        await self.death.wait()

    async def run(self, work: Work, observe: Callable[[Progress], None]) -> Outcome:
        self.ran.append(work.job_id)
        observe(Progress(done=0, total=2, stage="encode"))
        if self.script:
            outcome = self.script.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        ended = self.running[work.job_id] = asyncio.get_running_loop().create_future()
        try:
            return await ended
        except asyncio.CancelledError:
            self.cancelled.append(work.job_id)
            raise
        finally:
            del self.running[work.job_id]

    def finish(self, job_id: str, outcome: Outcome | None = None) -> None:
        self.running[job_id].set_result(outcome or Succeeded(report=REPORT))

    async def stop(self) -> None:
        self.stopped = True


class FakePusher:
    """An orchestrator: answers what ``answer`` says and notes what it was sent and when."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self.answer = Answer(status=200)
        self.tries: list[tuple[float, str]] = []
        self.taken: list[str] = []

    async def push(self, target: str, webhook_id: str, payload: dict[str, object]) -> Answer:
        self.tries.append((self._clock.now(), webhook_id))
        if self.answer.taken:
            self.taken.append(webhook_id)
        return self.answer


class FakeInspector:
    def __init__(self) -> None:
        self.inspection = Inspection(contract="native")

    async def inspect(self, encoder: str, decoder: str, contract: str) -> Inspection:
        return self.inspection


class LossyStore:
    """A store whose answers can get lost: the write goes through, and nobody hears of it.

    It can also be ``away``, or ``slow``: then a write goes through at once and its answer comes when that is set;
    ``refuses`` names a job that it does not write, and what it ``delays`` arrives later, all at once.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.loses: Callable[[Job], bool] = lambda job: False
        self.lost = 0
        self.away = False
        self.slow: asyncio.Event | None = None
        self.refuses: str | None = None
        self.delays = False
        self._delayed: list[Job] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, job_id: str) -> Job | None:
        self._check()
        return await self._store.get(job_id)

    async def add(self, job: Job) -> Job:
        self._check()
        if self.delays:
            self._delayed.append(job)
            raise StoreAway("no answer")
        return self._answer(job, await self._slowly(self._store.add(job)))

    async def commit(self, job: Job) -> Job:
        self._check(job.id)
        return self._answer(job, await self._slowly(self._store.commit(job)))

    async def arrive(self) -> None:
        for job in self._delayed:
            await self._store.add(job)

    def _check(self, job_id: str | None = None) -> None:
        if self.away or (job_id is not None and job_id == self.refuses):
            raise StoreAway("the store is away")

    async def _slowly(self, write: Coroutine[Any, Any, Job]) -> Job:
        stored = await write
        if self.slow is not None:
            await self.slow.wait()
        return stored

    def _answer(self, job: Job, stored: Job) -> Job:
        if self.loses(job):
            self.lost += 1
            self.loses = lambda job: False
            raise StoreUnavailable("no answer")
        return stored


class WatchedLease:
    """A lease that is kept in the store, and so away with it."""

    def __init__(self, world: World, lease: FileLease) -> None:
        self._world = world
        self._lease = lease
        self.acquire, self.release = lease.acquire, lease.release

    async def renew(self) -> None:
        self._world.store._check()
        await self._lease.renew()


class OneSuite:
    def suites(self) -> list[Suite]:
        return [Suite(name="demo", clips=(CLIP,))]

    def problems(self) -> dict[str, str]:
        return {}


class World:
    """``data`` outlives a world: a second one on the same folder is the service started again."""

    def __init__(
        self,
        data: Path,
        *,
        lanes: str = "cpu=cpu",
        clock: SimClock | None = None,
        bounds: Bounds | None = None,
        grace_s: float = 0.0,
    ) -> None:
        self.clock = clock or SimClock()
        self.data = data
        self.lanes = parse_lanes(lanes)
        self.executors = {
            lane.name: [FakeExecutor(lane.name, slot) for slot in range(lane.slots)] for lane in self.lanes
        }
        self.inspector = FakeInspector()
        self.pusher = FakePusher(self.clock)
        self.bounds = bounds or Bounds()
        self.grace_s = grace_s
        self.fatal: list[BaseException] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        blobs = LocalBlobs(self.data / "blobs")
        await blobs.open()
        self.board = Board(lanes=self.lanes)
        self.outbox = Outbox(
            pusher=self.pusher, clock=self.clock, result_of=lambda job: {"job_id": job.id}, jitter=lambda: 0.0
        )
        lease = WatchedLease(self, FileLease(self.data, self.clock))
        epoch = await lease.acquire(Holder(worker_id="w", host="h", data=str(self.data), pid=1))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(lease.release)
            self.store = LossyStore(await stack.enter_async_context(SqliteStore(self.data, epoch=epoch)))
            feed = Feed()
            self.jobs = Jobs(
                store=self.store,
                blobs=blobs,
                intake=Intake(
                    inspector=self.inspector,
                    catalogue=OneSuite(),
                    lanes=self.lanes,
                    metrics=frozenset({"psnr", "ssim"}),
                ),
                board=self.board,
                feed=feed,
                clock=self.clock,
                ids=Ids(lambda count: bytes(count)),
                targets=Targets(names=frozenset({"default"})),
                admission=Admission(board=self.board, clock=self.clock, bounds=self.bounds),
                outbox=self.outbox,
            )
            self.spool = FileSpool(self.data / "spool")
            self.endings = Endings(jobs=self.jobs, spool=self.spool, clock=self.clock)
            self.service = Service(
                store=self.store,
                blobs=blobs,
                lease=lease,
                executors=self.executors,
                jobs=self.jobs,
                endings=self.endings,
                board=self.board,
                outbox=self.outbox,
                clock=self.clock,
                lease_s=15.0,
                grace_s=self.grace_s,
                on_fatal=self.fatal.append,
            )
            async with self.service.running():
                yield self

    def executor(self, lane: str = "cpu", slot: int = 0) -> FakeExecutor:
        return self.executors[lane][slot]

    async def submit(self, **changes: object) -> Job:
        return await self.jobs.submit(submission(**changes))

    async def until(self, condition: Callable[[], bool], *, skip: bool = False) -> None:
        """Wait, at most 10 s, until the condition holds; with ``skip`` simulated time moves on meanwhile."""
        for round_ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.005)
            if skip and round_ % 4 == 3:
                self.clock.skip_to_next()
        raise AssertionError("it did not happen")

    async def job_until(self, job_id: str, status: str, *, skip: bool = False) -> Job:
        for round_ in range(2000):
            job = await self.jobs.get(job_id)
            if job.status == status:
                return job
            await asyncio.sleep(0.005)
            if skip and round_ % 4 == 3:
                self.clock.skip_to_next()
        raise AssertionError(f"job {job_id} is {job.status}, not {status}")


def submission(**changes: object) -> Submission:
    fields: dict[str, object] = {"encoder": "def encode(): ...", "decoder": "def decode(): ...", "body_sha256": "b"}
    return Submission(**{**fields, **changes})  # type: ignore[arg-type]


def broke(error_type: ErrorType, message: str = "it broke") -> Failed:
    return Failed(fault=Fault(error_type=error_type, message=message))


def lost() -> WorkerLost:
    return WorkerLost("the evaluator died")


def loses(status):
    return lambda job: job.status is status
