"""The lanes at work: what waits, which slots are free, and what runs.

All of it is volatile; a start-up rebuilds it from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.domain.errors import InvalidSpec
from app.domain.evaluation import Report
from app.domain.job import Job
from app.domain.lanes import Device, Lane, LaneMode, eligible_lanes
from app.domain.waiting import WaitingJobs, waiting
from app.ports import Progress, Ready

_WEIGHT_OF_NEWEST = 0.2


@dataclass(slots=True, eq=False)
class LaneState:
    """One lane now. ``queue`` holds job ids that were picked for a free slot and are being claimed.

    ``troubles`` says by slot why it cannot take jobs at present.
    """

    lane: Lane
    queue: asyncio.Queue[str]
    mode: LaneMode = LaneMode.OPEN
    free: int = 0
    working: int = 0
    ready: Ready | None = None
    troubles: dict[int, str] = field(default_factory=dict)
    run_s: float | None = None
    s_per_pixel: float | None = None
    processed: int = 0

    @property
    def takes(self) -> bool:
        """Whether a waiting job could start here now."""
        return self.free > 0 and self.mode is not LaneMode.PAUSED

    @property
    def trouble(self) -> str | None:
        return next(iter(self.troubles.values()), None)

    @property
    def broken(self) -> bool:
        """Whether the lane is out of service: no slot of it can take a job."""
        return len(self.troubles) == self.lane.slots

    def ran(self, seconds: float, report: Report | None) -> None:
        """Note how long an attempt took: waits and durations are estimated from moving averages."""
        self.processed += 1
        self.run_s = _moved(self.run_s, seconds)
        pixels = sum(point.frames * point.width * point.height for point in report.points) if report else 0
        if pixels:
            self.s_per_pixel = _moved(self.s_per_pixel, seconds / pixels)


def _moved(average: float | None, newest: float) -> float:
    return newest if average is None else average + _WEIGHT_OF_NEWEST * (newest - average)


@dataclass(slots=True, eq=False)
class Running:
    """An attempt that runs in this process' care."""

    task: asyncio.Task[object]
    progress: Progress | None = None

    def stop(self) -> None:
        """Kill it. A second request must not disturb the killing."""
        if not self.task.cancelling():
            self.task.cancel()


@dataclass(slots=True, eq=False)
class Board:
    """Hands waiting jobs to free slots, CUDA lanes first, so that a job for any lane gets the fastest free one."""

    lanes: tuple[Lane, ...]
    waiting: WaitingJobs = field(default_factory=WaitingJobs)
    running: dict[str, Running] = field(default_factory=dict)
    stranded: dict[str, str] = field(default_factory=dict)
    claiming: set[str] = field(default_factory=set)
    stop_requests: set[str] = field(default_factory=set)
    closed: bool = False
    states: dict[str, LaneState] = field(init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        ordered: Sequence[Lane] = sorted(self.lanes, key=lambda lane: lane.kind is not Device.CUDA)
        self.states = {lane.name: LaneState(lane=lane, queue=asyncio.Queue(maxsize=lane.slots)) for lane in ordered}
        self._idle.set()

    def enqueue(self, job: Job) -> None:
        """Let the job wait for a lane. If none of this service fits, it waits apart for a start with other lanes.

        A job that waits, is being claimed or runs is left where it is.
        """
        if job.id in self.claiming or job.id in self.running:
            return
        try:
            lanes = eligible_lanes(job.spec.device, self.lanes)
        except InvalidSpec:
            self.stranded[job.id] = job.owner
            return
        self.waiting.add(waiting(job, lanes))
        self.dispatch()

    def withdraw(self, job_id: str) -> None:
        self.waiting.discard(job_id)
        self.stranded.pop(job_id, None)

    def slot_free(self, lane: str) -> None:
        """A slot of the lane is warm and waits on its queue."""
        self.states[lane].free += 1
        self.dispatch()

    def slot_lost(self, lane: str) -> bool:
        """A free slot is not warm any more; False if a job is on its way to it already."""
        state = self.states[lane]
        if state.free == 0:
            return False
        state.free -= 1
        return True

    @contextmanager
    def working(self, lane: str) -> Iterator[None]:
        """A slot of the lane is busy with a job, from claiming it to writing down how its attempt ended."""
        self.states[lane].working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.states[lane].working -= 1
            if not any(state.working for state in self.states.values()):
                self._idle.set()

    async def idle(self) -> None:
        """Return once no slot is busy."""
        await self._idle.wait()

    def dispatch(self) -> None:
        if self.closed:
            return
        for state in self.states.values():
            spared = self.open_lanes if state.mode is LaneMode.DRAINING else frozenset[str]()
            while state.takes and (picked := self.waiting.next(state.lane.name, spared)) is not None:
                self.waiting.take(state.lane.name, picked)
                self.claiming.add(picked.job_id)
                state.free -= 1
                state.queue.put_nowait(picked.job_id)

    def stop(self, job_id: str) -> None:
        """Kill the job's attempt. One that was claimed a moment ago and has not started is stopped by ``start``."""
        running = self.running.get(job_id)
        if running is not None:
            running.stop()
        elif job_id in self.claiming:
            self.stop_requests.add(job_id)

    def start(self, job_id: str, running: Running) -> None:
        self.running[job_id] = running
        if job_id in self.stop_requests:
            running.stop()

    def forget(self, job_id: str) -> None:
        """A slot is done with the job."""
        self.claiming.discard(job_id)
        self.running.pop(job_id, None)
        self.stop_requests.discard(job_id)

    def switch(self, lane: str, mode: LaneMode) -> None:
        self.states[lane].mode = mode
        self.dispatch()

    @property
    def open_lanes(self) -> frozenset[str]:
        """The lanes that take whatever job fits them."""
        return frozenset(
            name for name, state in self.states.items() if state.mode is LaneMode.OPEN and not state.broken
        )

    def of_client(self, client: str) -> int:
        """How many jobs of the client wait."""
        return self.waiting.of_client(client) + sum(owner == client for owner in self.stranded.values())

    @property
    def queued(self) -> int:
        """How many jobs wait, those included that no lane of this service fits."""
        return len(self.waiting) + len(self.stranded)

    def wait_s(self, lane: str, ahead: int | None = None) -> float | None:
        """How long a job with ``ahead`` jobs before it is likely to wait.

        None before the lane has run anything, and while it is out of service.
        """
        state = self.states[lane]
        if state.broken:
            return None
        before = self.waiting.depth(lane) if ahead is None else ahead
        if state.free > 0 and before == 0:
            return 0.0
        return None if state.run_s is None else state.run_s * (before + 1) / state.lane.slots

    def one_leaves_s(self, lanes: frozenset[str]) -> float | None:
        """How often a job that waits for these lanes gets its turn, None before one of them has run anything."""
        paces = [state.lane.slots / state.run_s for name in lanes if (state := self.states[name]).run_s]
        return 1 / sum(paces) if paces else None

    def estimate_s(self, lanes: frozenset[str], pixels: int) -> float | None:
        """How long a job over so many pixels is likely to run, None before one of its lanes has measured anything."""
        paces = [pace for name in lanes if (pace := self.states[name].s_per_pixel) is not None]
        return min(paces) * pixels if paces else None
