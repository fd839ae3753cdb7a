"""Sends what is due. Deliveries live in the store; here are only ids and times.

While a target refuses, one delivery at a time probes for all that wait for it; its first success makes all of them due.
Probes come more often than the deliveries' own schedules ask for, so that a target that is back is noticed in seconds.
One that is refused before its delivery was due leaves that schedule as it was, or it would use it up within minutes.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from app.domain.delivery import Answer
from app.domain.errors import StoreUnavailable
from app.domain.evaluation import Json
from app.domain.job import Job
from app.domain.lifecycle import Decision, Event, Pushed
from app.engine.watch import Trouble
from app.ports import Clock, Pusher

# The HTTP client's throughput falls above a handful of requests to one host.
MAX_AT_ONCE = 4
# A target that has been away for long is asked less often: at a hundredth of that time, between these.
LEAST_PROBE_S, MOST_PROBE_S = 5.0, 30.0
# A target that names a time itself is left alone until then, but not for longer than this.
MAX_HOLD_S = 600.0
STORE_PAUSE_S = 1.0


class Jobs(Protocol):
    """What the outbox needs of the jobs."""

    async def get(self, job_id: str) -> Job: ...

    async def apply_surely(self, job_id: str, event: Event) -> Decision: ...


@dataclass(slots=True, eq=False)
class _Target:
    """``refusals`` counts failed tries in a row; until ``held_until`` nothing is sent to a target that refuses.

    ``judged`` counts how often that was decided: a try that began before the last time tells nothing new.
    ``refusing_since`` and ``last_error`` are of the refusals in a row.
    ``due`` says when each job's delivery goes; ``order`` has the same times sorted, and old ones that count no more.
    """

    refusals: int = 0
    held_until: float = 0.0
    refusing_since: float = 0.0
    last_error: str | None = None
    judged: int = 0
    under_way: int = 0
    due: dict[str, float] = field(default_factory=dict)
    order: list[tuple[float, str]] = field(default_factory=list)

    def put(self, job_id: str, at: float) -> None:
        self.due[job_id] = at
        heapq.heappush(self.order, (at, job_id))

    def pop(self) -> str:
        _, job_id = heapq.heappop(self.order)
        del self.due[job_id]
        return job_id

    @property
    def busy(self) -> bool:
        """Whether something is under way, or about to be."""
        return self.under_way > 0 or (bool(self.due) and not self.refusals)

    def ready_at(self) -> float | None:
        """When the next delivery may go, None if nothing waits or enough is under way."""
        while self.order and self.due.get(self.order[0][1]) != self.order[0][0]:
            heapq.heappop(self.order)
        limit = 1 if self.refusals else MAX_AT_ONCE
        if not self.order or self.under_way >= limit:
            return None
        return self.held_until if self.refusals else self.order[0][0]

    def judge(self, answer: Answer, judged: int, now: float) -> None:
        """Learn from a try: an answer opens the target and makes everything due; a refusal holds it for a while.

        ``judged`` is the count when the try began.
        """
        if answer.taken or answer.final:
            if self.refusals:
                self.make_all_due(now)
            self.refusals, self.held_until, self.judged, self.last_error = 0, 0.0, self.judged + 1, None
        elif judged == self.judged:
            if not self.refusals:
                self.refusing_since = now
            pause = min(max((now - self.refusing_since) / 100, LEAST_PROBE_S), MOST_PROBE_S)
            asked = min(answer.retry_after_s or 0.0, MAX_HOLD_S)
            self.refusals, self.held_until = self.refusals + 1, now + max(pause, asked)
            self.judged, self.last_error = self.judged + 1, answer.error or f"HTTP {answer.status}"

    def make_all_due(self, now: float) -> None:
        self.due = {job_id: min(at, now) for job_id, at in self.due.items()}
        self.order = [(at, job_id) for job_id, at in self.due.items()]
        heapq.heapify(self.order)


class Outbox:
    def __init__(
        self, *, pusher: Pusher, clock: Clock, result_of: Callable[[Job], dict[str, Json]], jitter: Callable[[], float]
    ) -> None:
        self._pusher = pusher
        self._clock = clock
        self._result_of = result_of
        self._jitter = jitter
        self._targets: dict[str, _Target] = {}
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()

    def schedule(self, job_id: str, target: str, at: float) -> None:
        """The job's delivery is due at ``at``, whatever was said before."""
        self._targets.setdefault(target, _Target()).put(job_id, at)
        self._wake.set()

    def probe(self, target: str) -> None:
        """Try the target at once, though it refuses: somebody has reason to think that it is back."""
        self._targets.setdefault(target, _Target()).held_until = 0.0
        self._wake.set()

    @property
    def waiting(self) -> int:
        return sum(len(target.due) + target.under_way for target in self._targets.values())

    async def settled(self) -> None:
        """Return once there is nothing to send but to targets that refuse."""
        while any(target.busy for target in self._targets.values()):
            self._settled.clear()
            await self._settled.wait()

    def refusing(self) -> dict[str, Trouble]:
        """The targets whose last try failed, by name."""
        return {
            name: Trouble(since=target.refusing_since, last_error=target.last_error or "")
            for name, target in sorted(self._targets.items())
            if target.refusals
        }

    async def run(self, jobs: Jobs) -> None:
        """For ever: send what is due."""
        async with asyncio.TaskGroup() as sends:
            while True:
                self._wake.clear()
                for name, target in list(self._targets.items()):
                    while (at := target.ready_at()) is not None and at <= self._clock.now():
                        job_id = target.pop()
                        target.under_way += 1
                        sends.create_task(self._send(jobs, name, target, job_id))
                await self._until_next()

    async def _until_next(self) -> None:
        times = [at for target in self._targets.values() if (at := target.ready_at()) is not None]
        if not times:
            await self._wake.wait()
            return
        pause = asyncio.create_task(self._clock.sleep(max(0.0, min(times) - self._clock.now())))
        wake = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({pause, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            wake.cancel()

    async def _send(self, jobs: Jobs, name: str, target: _Target, job_id: str) -> None:
        try:
            job = await self._load(jobs, job_id)
            if job.delivery is None or job.delivery.next_at is None:
                return
            judged, early = target.judged, job.delivery.next_at > self._clock.now()
            answer = await self._push(name, job)
            now = self._clock.now()
            target.judge(answer, judged, now)
            if early and not (answer.taken or answer.final):
                # Unless somebody asked for it to be sent again meanwhile.
                if job_id not in target.due:
                    target.put(job_id, job.delivery.next_at)
                return
            await jobs.apply_surely(job_id, Pushed(at=now, answer=answer, jitter=self._jitter()))
        finally:
            target.under_way -= 1
            self._settled.set()
            self._wake.set()

    async def _push(self, name: str, job: Job) -> Answer:
        assert job.delivery is not None
        try:
            return await self._pusher.push(name, job.delivery.id, self._result_of(job))
        except Exception as error:  # noqa: BLE001 - one result that cannot be sent must not hold up the others
            return Answer(status=None, error=f"{type(error).__name__}: {error}")

    async def _load(self, jobs: Jobs, job_id: str) -> Job:
        while True:
            try:
                return await jobs.get(job_id)
            except StoreUnavailable:
                await self._clock.sleep(STORE_PAUSE_S)
