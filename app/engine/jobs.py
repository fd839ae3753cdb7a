"""The jobs: submit, look, cancel, and ``apply``, the one door through which events reach the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from app.domain.access import LOCAL
from app.domain.errors import (
    AlreadyEnded,
    Conflict,
    Draining,
    FieldError,
    InvalidSpec,
    JailTooWeak,
    KeyReused,
    NotFound,
    StaleVersion,
    StillInFlight,
    StoreAway,
    StoreUnavailable,
)
from app.domain.jail import Jail
from app.domain.job import Job, Status
from app.domain.lanes import LaneMode
from app.domain.lifecycle import (
    CancelRequested,
    Decision,
    Deliver,
    Effect,
    Enqueue,
    Event,
    RedeliverRequested,
    StopAttempt,
    Withdraw,
    decide,
    submitted,
)
from app.engine.board import Board
from app.engine.bounds import Admission
from app.engine.feed import Feed
from app.engine.ids import Ids
from app.engine.intake import Checked, Intake, Submission
from app.engine.outbox import Outbox
from app.engine.room import Room
from app.engine.watch import Watch, WatchedStore
from app.ports import Blobs, Clock, JobFilter, Page, Store

PROBE_S = 2.0
# A write without an answer may come through later; so long it is looked for.
DOUBT_S = 60.0
_TICK_S = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Where results may be sent: names of the operator's targets. ``default`` is used where a job names none."""

    names: frozenset[str] = frozenset()

    def resolve(self, wanted: str) -> str | None:
        if wanted in self.names:
            return wanted
        if wanted == "default":
            return None
        offered = ", ".join(sorted(self.names)) or "none"
        raise InvalidSpec(
            [FieldError(field="deliver_to", message=f"no target {wanted!r}; this service has: {offered}")]
        )


class Jobs:
    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        intake: Intake,
        board: Board,
        feed: Feed,
        clock: Clock,
        ids: Ids,
        targets: Targets,
        admission: Admission,
        outbox: Outbox,
        jail: Jail | None = None,
        room: Room | None = None,
    ) -> None:
        self.watch = Watch(clock)
        self._store = WatchedStore(store, self.watch)
        self._blobs = blobs
        self._intake = intake
        self._board = board
        self._feed = feed
        self._clock = clock
        self._ids = ids
        self._targets = targets
        self._admission = admission
        self._outbox = outbox
        self.jail = jail or Jail()
        self.room = room
        self._experiments: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}
        self._last_created_at = 0.0
        self._in_flight: set[tuple[str, str]] = set()
        self._doubtful: dict[str, float] = {}
        self._closed: str | None = "the service is starting"
        self._held_until = 0.0

    @property
    def closed(self) -> str | None:
        """Why no job is taken at present, None if jobs are taken."""
        if self._closed is None and self._clock.monotonic() > self._held_until:
            trouble = self.watch.trouble
            last = "" if trouble is None else f": {trouble.last_error}"
            return f"the store has not confirmed for a while that it is held by this service{last}"
        return self._closed

    def open(self) -> None:
        self._closed = None

    def close(self, reason: str) -> None:
        """Take no new jobs and start none; whoever waits for a job's end hears how it is."""
        self._closed = reason
        self._board.closed = True
        self._feed.wake_all()

    def held_until(self, monotonic: float) -> None:
        """Until then the lease is ours for certain. After it a job that is taken might be seen by nobody."""
        self._held_until = monotonic

    async def submit(self, submission: Submission) -> Job:
        """Accept a job: when this returns it is durable and will be run.

        The same experiment while its job is active, the same id or the same key, with the same body, gives that job
        again. Raises ``InvalidSpec``, ``Conflict``, ``KeyReused``, ``QueueFull``, ``Draining``, ``JailTooWeak``,
        ``StoreUnavailable``: then the job may exist all the same, and the same id, key or experiment gives it.
        """
        if self.closed is not None:
            raise StoreAway(self.closed) if self._closed is None else Draining(self.closed)
        if self.jail.refusal is not None:
            raise JailTooWeak(self.jail.refusal)
        if submission.repeat_key is None or submission.job_id is not None:
            return await self._submit(submission)
        key = (submission.client.name, submission.repeat_key)
        if key in self._in_flight:
            raise StillInFlight("the first request with this Idempotency-Key has not been answered yet")
        self._in_flight.add(key)
        try:
            # The key is kept with the job, as its id, and so for as long as the job.
            return await self._submit(replace(submission, job_id=self._ids.of_key(*key)))
        finally:
            self._in_flight.discard(key)

    async def _submit(self, submission: Submission) -> Job:
        target = self._targets.resolve(submission.deliver_to)
        known = await self._of_id(submission)
        if known is not None:
            return self._known(known, submission)
        checked = await self._intake.check(submission)
        key = submission.experiment_id or submission.job_id
        if key is None:
            return await self._accept(submission, checked, target)
        async with self._alone((submission.client.name, key)):
            known = await self._active(submission)
            if known is not None:
                return self._known(known, submission)
            return await self._accept(submission, checked, target)

    async def check(self, submission: Submission) -> Checked:
        """What ``submit`` would find, without queueing anything."""
        self._targets.resolve(submission.deliver_to)
        return await self._intake.check(submission)

    async def _active(self, submission: Submission) -> Job | None:
        async with self.watch.within():
            known = await self._of_id(submission)
            if known is not None or submission.experiment_id is None:
                return known
            newest = await self._store.newest(submission.experiment_id, submission.client.name)
        return newest if newest is not None and not newest.status.terminal else None

    async def _of_id(self, submission: Submission) -> Job | None:
        if submission.job_id is None:
            return None
        async with self.watch.within():
            return await self._store.get(submission.job_id)

    async def _accept(self, submission: Submission, checked: Checked, target: str | None) -> Job:
        with self._admission.admit(submission.client, self._not_draining(checked.lanes)):
            if self.room is not None:
                await self.room.check()
            code = (submission.encoder.encode(), submission.decoder.encode())
            await asyncio.gather(*(self._blobs.put(source) for source in code))
            return await self._add(self._new(submission, checked, target))

    def _not_draining(self, lanes: frozenset[str]) -> frozenset[str]:
        left = frozenset(name for name in lanes if self._board.states[name].mode is not LaneMode.DRAINING)
        if not left:
            raise Draining(f"lane {' and '.join(sorted(lanes))} is being drained and takes no new jobs")
        return left

    async def _add(self, job: Job) -> Job:
        try:
            async with self.watch.within():
                added = await self._store.add(job)
        except StoreUnavailable:
            self._doubt(job.id)
            raise
        self._settle(added)
        return added

    def _known(self, known: Job, submission: Submission) -> Job:
        job = _same(known, submission)
        self._settle(job)
        return job

    def _settle(self, job: Job) -> None:
        """Have everything volatile follow from the job as it is stored. Doing so twice does no harm."""
        if job.status is Status.QUEUED:
            self._board.enqueue(job)
        elif job.status.terminal:
            self._board.withdraw(job.id)
        delivery = job.delivery
        if delivery is not None and delivery.target is not None and delivery.next_at is not None:
            self._outbox.schedule(job.id, delivery.target, delivery.next_at)
        self._feed.changed(job.id)

    def _doubt(self, job_id: str) -> None:
        self._doubtful[job_id] = self._clock.monotonic() + DOUBT_S

    async def reconcile(self) -> None:
        """Look again at jobs whose last write had no answer: it may have gone through all the same.

        Raises ``StoreUnavailable``.
        """
        for job_id, until in list(self._doubtful.items()):
            job = await self._store.get(job_id)
            if job is not None or self._clock.monotonic() > until:
                self._doubtful.pop(job_id, None)
            if job is not None:
                self._settle(job)

    def _new(self, submission: Submission, checked: Checked, target: str | None) -> Job:
        # Acceptance times never repeat, so that order within a priority is the order of acceptance.
        now = self._last_created_at = max(self._clock.now(), self._last_created_at + _TICK_S)
        job_id = submission.job_id or self._ids.new(now)
        job = Job(
            id=job_id,
            experiment_id=submission.experiment_id or job_id,
            spec=checked.spec,
            created_at=now,
            owner=submission.client.name,
            weight=submission.client.weight,
            deliver_to=target,
        )
        return submitted(job, actor=job.owner)

    @asynccontextmanager
    async def _alone(self, key: tuple[str, str]) -> AsyncIterator[None]:
        """One submission at a time for each experiment: two at once would both find none active."""
        lock, users = self._experiments.get(key, (asyncio.Lock(), 0))
        self._experiments[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._experiments[key]
            if users == 1:
                del self._experiments[key]
            else:
                self._experiments[key] = (lock, users - 1)

    @property
    def refuses(self) -> bool:
        """Whether the next submission would be refused, however good it is, as far as is known without asking."""
        known = (self.closed, self.jail.refusal, self.watch.trouble)
        return self._admission.full or any(reason is not None for reason in known)

    async def probe(self) -> None:
        """Raises ``StoreUnavailable`` if nothing could be made durable now; within ``PROBE_S``, whatever hangs."""
        async with self.watch.within(PROBE_S):
            await self._store.get("probe")

    async def get(self, job_id: str) -> Job:
        """Raises ``NotFound``."""
        job = await self._store.get(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        return job

    async def newest(self, experiment_id: str, owner: str = LOCAL.client.name) -> Job | None:
        async with self.watch.within():
            return await self._store.newest(experiment_id, owner)

    async def page(self, wanted: JobFilter, *, limit: int, cursor: str | None) -> Page:
        async with self.watch.within():
            return await self._store.page(wanted, limit=limit, cursor=cursor)

    def watch_job(self, job_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set at the job's next change, and when the service stops. Enter before reading the job."""
        return self._feed.watch(job_id)

    async def ended(self, job_id: str, *, within_s: float) -> Job:
        """The job once it has ended, or as it is after ``within_s`` seconds or when the service stops.

        Raises ``NotFound``.
        """
        deadline = self._clock.monotonic() + within_s
        with self._feed.watch(job_id) as bell:
            while True:
                bell.clear()
                job = await self.get(job_id)
                left = deadline - self._clock.monotonic()
                if job.status.terminal or left <= 0 or self._closed is not None:
                    return job
                try:
                    await asyncio.wait_for(bell.wait(), left)
                except TimeoutError:
                    return await self.get(job_id)

    async def cancel(self, job_id: str, *, actor: str = LOCAL.client.name) -> Job:
        """End a queued job at once and kill a running one. Raises ``NotFound``, ``AlreadyEnded``."""
        async with self.watch.within():
            decision = await self.apply(job_id, CancelRequested(at=self._clock.now(), actor=actor))
        if decision.job.status.terminal and not decision.changed:
            raise AlreadyEnded(job_id, decision.job.status.value)
        return decision.job

    async def redeliver(self, job_id: str, *, actor: str = LOCAL.client.name) -> Job:
        """Send the result again. Raises ``NotFound``; ``Conflict`` without a result or without a target."""
        job = await self.get(job_id)
        if not job.status.terminal:
            raise Conflict(f"job {job_id} is {job.status}: there is no result to deliver yet")
        target = job.deliver_to or "default"
        if target not in self._targets.names:
            raise Conflict(f"this service has no target {target!r} to deliver to")
        async with self.watch.within():
            decision = await self.apply(job_id, RedeliverRequested(at=self._clock.now(), target=target, actor=actor))
        self._outbox.probe(target)
        return decision.job

    async def apply(self, job_id: str, event: Event) -> Decision:
        """Load the job, decide, commit, and only then carry out what follows. An absorbed event changes nothing.

        Raises ``NotFound``, ``StoreUnavailable``, ``IllegalTransition``; ``StaleVersion`` if another service has taken
        the store over.
        """
        seen: int | None = None
        while True:
            before = await self.get(job_id)
            decision = decide(before, event)
            job = decision.job
            if decision.changed:
                try:
                    job = await self._store.commit(decision.job)
                except StaleVersion:
                    if before.version == seen:
                        raise
                    seen = before.version
                    continue
                except (StoreUnavailable, asyncio.CancelledError):
                    self._doubt(job_id)
                    raise
            else:
                # It may be absorbed because it went through before, with its answer lost on the way.
                self._settle(job)
            for effect in decision.effects:
                self._carry_out(job, effect)
            self._feed.changed(job_id)
            return Decision(job=job, effects=decision.effects, changed=decision.changed)

    async def apply_surely(self, job_id: str, event: Event, *, pause_s: float = 1.0) -> Decision:
        """``apply``, waiting for the store to come back: what happened to a job has to be written down."""
        while True:
            try:
                return await self.apply(job_id, event)
            except StoreUnavailable:
                await self._clock.sleep(pause_s)

    def _carry_out(self, job: Job, effect: Effect) -> None:
        if isinstance(effect, Enqueue):
            self._board.enqueue(job)
        elif isinstance(effect, Withdraw):
            self._board.withdraw(job.id)
        elif isinstance(effect, StopAttempt):
            self._board.stop(job.id)
        elif isinstance(effect, Deliver):
            self._outbox.schedule(job.id, effect.target, effect.at)


def _same(known: Job, submission: Submission) -> Job:
    if known.owner != submission.client.name:
        raise Conflict(f"the id {known.id!r} is taken")
    if known.spec.body_sha256 == submission.body_sha256:
        return known
    if known.id == submission.job_id:
        if submission.repeat_key is not None:
            raise KeyReused("this Idempotency-Key was used with another body")
        raise Conflict(f"job {known.id!r} exists already, with another body")
    active = "is still " + (Status.RUNNING.value if known.status is Status.RUNNING else Status.QUEUED.value)
    raise Conflict(f"experiment {known.experiment_id!r} {active} as job {known.id}, with another body")
