"""The state machine of a job. ``decide`` is pure and the only place where a job changes.

An event is a fact with a time. What follows from it is the changed job and effects, frozen values that the engine
carries out after the job has been committed. ``TABLE`` holds every transition; the first row whose guard holds is
taken.

Three rules stand before the table. A terminal state absorbs every event. An event of an attempt that is not the running
one is absorbed too: the attempt's number fences out late writers. A cancel request for a job that has one changes
nothing more, and only repeats its effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from app.domain import delivery as deliveries
from app.domain.delivery import Answer, Delivery
from app.domain.errors import IllegalTransition
from app.domain.evaluation import Report
from app.domain.job import EVENTS_KEPT, Attempt, Blame, ErrorType, Fault, Job, StateEvent, Status

MAX_PLATFORM_FAILURES = 3
MAX_ORPHANINGS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """A slot took the job; this starts the next attempt."""

    at: float
    lane: str
    slot: int
    device: str
    device_name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelRequested:
    at: float
    actor: str = "client"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Every point was measured."""

    at: float
    attempt: int
    report: Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Broke:
    """The attempt failed; ``report`` has the points so far, if any."""

    at: float
    attempt: int
    fault: Fault
    report: Report | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """The service is shutting down and gives the job back."""

    at: float
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphaned:
    """A start-up found the job running in a process that is gone."""

    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """The attempt was killed because of a cancel request."""

    at: float
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """One delivery try came back. ``jitter`` in 0..1 is drawn by the caller."""

    at: float
    answer: Answer
    jitter: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RedeliverRequested:
    at: float
    target: str
    actor: str = "client"


AttemptEvent: TypeAlias = Finished | Broke | Released | Stopped
RunEvent: TypeAlias = Claimed | CancelRequested | AttemptEvent | Orphaned
DeliveryEvent: TypeAlias = Pushed | RedeliverRequested
Event: TypeAlias = RunEvent | DeliveryEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Enqueue:
    """The job waits for a lane (again)."""

    job_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StopAttempt:
    """Kill what runs for this job."""

    job_id: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Deliver:
    """The job's delivery to ``target`` is due at ``at``."""

    job_id: str
    target: str
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdraw:
    """The job no longer waits for a lane."""

    job_id: str


Effect: TypeAlias = Enqueue | StopAttempt | Deliver | Withdraw
Guard: TypeAlias = Callable[[Job, RunEvent], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """``changed`` is False when the event was absorbed; then there is nothing to commit."""

    job: Job
    effects: tuple[Effect, ...] = ()
    changed: bool = True


def always(job: Job, event: RunEvent) -> bool:
    return True


def cancel_requested(job: Job, event: RunEvent) -> bool:
    return job.cancel_requested


def submission_at_fault(job: Job, event: RunEvent) -> bool:
    return isinstance(event, Broke) and event.fault.blame is not Blame.PLATFORM


def retry_left(job: Job, event: RunEvent) -> bool:
    return job.platform_failures + 1 < MAX_PLATFORM_FAILURES


def orphaning_left(job: Job, event: RunEvent) -> bool:
    return job.orphanings + 1 < MAX_ORPHANINGS


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    source: Status
    event: type[RunEvent]
    guard: Guard = always
    target: Status


QUEUED, RUNNING, FAILED, CANCELLED = Status.QUEUED, Status.RUNNING, Status.FAILED, Status.CANCELLED

TABLE: tuple[Row, ...] = (
    Row(source=QUEUED, event=Claimed, target=RUNNING),
    Row(source=QUEUED, event=CancelRequested, target=CANCELLED),
    Row(source=RUNNING, event=CancelRequested, target=RUNNING),
    Row(source=RUNNING, event=Finished, target=Status.SUCCEEDED),
    Row(source=RUNNING, event=Broke, guard=submission_at_fault, target=FAILED),
    Row(source=RUNNING, event=Broke, guard=cancel_requested, target=CANCELLED),
    Row(source=RUNNING, event=Broke, guard=retry_left, target=QUEUED),
    Row(source=RUNNING, event=Broke, target=FAILED),
    Row(source=RUNNING, event=Released, guard=cancel_requested, target=CANCELLED),
    Row(source=RUNNING, event=Released, target=QUEUED),
    Row(source=RUNNING, event=Orphaned, guard=cancel_requested, target=CANCELLED),
    Row(source=RUNNING, event=Orphaned, guard=orphaning_left, target=QUEUED),
    Row(source=RUNNING, event=Orphaned, target=FAILED),
    Row(source=RUNNING, event=Stopped, guard=cancel_requested, target=CANCELLED),
)


def decide(job: Job, event: Event) -> Decision:
    """The job after ``event``, and what to do about it.

    Raises ``IllegalTransition`` for an event that cannot happen in the job's state.
    """
    if isinstance(event, Pushed | RedeliverRequested):
        return _decide_delivery(job, event)
    if job.status.terminal:
        return Decision(job=job, changed=False)
    if isinstance(event, Finished | Broke | Released | Stopped):
        if event.attempt > job.attempt:
            raise IllegalTransition(f"job {job.id} has no attempt {event.attempt}")
        if job.status is not RUNNING or event.attempt != job.attempt:
            return Decision(job=job, changed=False)
    if isinstance(event, CancelRequested) and job.cancel_requested:
        return Decision(job=job, effects=(StopAttempt(job_id=job.id, attempt=job.attempt),), changed=False)
    for row in TABLE:
        if row.source is job.status and isinstance(event, row.event) and row.guard(job, event):
            return _move(job, event, row.target)
    raise IllegalTransition(f"job {job.id}: {type(event).__name__} cannot happen while {job.status}")


def submitted(job: Job, actor: str = "client") -> Job:
    """A new job with the event that opens its history."""
    return _noted(job, event="Submitted", at=job.created_at, actor=actor)


def _move(job: Job, event: RunEvent, target: Status) -> Decision:
    moved = _apply(job, event, target)
    effects: tuple[Effect, ...] = ()
    if target.terminal:
        sent = deliveries.first(job.id, job.deliver_to, event.at)
        moved = replace(moved, finished_at=event.at, delivery=sent)
        effects = _due(job.id, sent)
        if job.status is QUEUED:
            effects = (Withdraw(job_id=job.id), *effects)
    elif target is QUEUED:
        effects = (Enqueue(job_id=job.id),)
    elif isinstance(event, CancelRequested):
        effects = (StopAttempt(job_id=job.id, attempt=job.attempt),)
    actor = event.actor if isinstance(event, CancelRequested) else "service"
    reason = event.fault.message if isinstance(event, Broke) else None
    return Decision(
        job=_noted(moved, event=type(event).__name__, at=event.at, actor=actor, reason=reason), effects=effects
    )


def _apply(job: Job, event: RunEvent, target: Status) -> Job:
    job = replace(job, status=target)
    if isinstance(event, Claimed):
        attempt = Attempt(
            number=job.attempt + 1,
            lane=event.lane,
            slot=event.slot,
            device=event.device,
            device_name=event.device_name,
            started_at=event.at,
        )
        return replace(job, attempts=(*job.attempts, attempt), started_at=job.started_at or event.at)
    if isinstance(event, CancelRequested):
        return replace(job, cancel_requested=True)
    job = _end_attempt(job, event)
    if isinstance(event, Finished):
        return replace(job, report=event.report)
    if isinstance(event, Broke):
        if event.fault.blame is Blame.PLATFORM:
            job = replace(job, platform_failures=job.platform_failures + 1)
        if target is FAILED:
            return replace(job, fault=event.fault, report=event.report)
    if isinstance(event, Orphaned):
        job = replace(job, orphanings=job.orphanings + 1)
        if target is FAILED:
            message = f"the service died {job.orphanings} times while this job ran"
            return replace(job, fault=Fault(error_type=ErrorType.WORKER_LOST, message=message))
    return job


def _end_attempt(job: Job, event: AttemptEvent | Orphaned) -> Job:
    ended = replace(
        job.attempts[-1],
        ended_at=event.at,
        ended=type(event).__name__.lower(),
        reason=event.fault.message if isinstance(event, Broke) else None,
    )
    return replace(job, attempts=(*job.attempts[:-1], ended))


def _decide_delivery(job: Job, event: DeliveryEvent) -> Decision:
    if job.delivery is None:
        raise IllegalTransition(f"job {job.id} has no result to deliver: it is {job.status}")
    if isinstance(event, RedeliverRequested):
        sent = deliveries.again(job.delivery, event.target, event.at)
        actor, reason = event.actor, None
    elif job.delivery.next_at is None:
        return Decision(job=job, changed=False)
    else:
        sent = deliveries.settle(job.delivery, event.answer, event.at, event.jitter)
        actor, reason = "service", sent.last_error
    noted = _noted(replace(job, delivery=sent), event=type(event).__name__, at=event.at, actor=actor, reason=reason)
    return Decision(job=noted, effects=_due(job.id, sent))


def _due(job_id: str, delivery: Delivery) -> tuple[Effect, ...]:
    if delivery.target is None or delivery.next_at is None:
        return ()
    return (Deliver(job_id=job_id, target=delivery.target, at=delivery.next_at),)


def _noted(job: Job, *, event: str, at: float, actor: str, reason: str | None = None) -> Job:
    last = job.events[-1].seq if job.events else 0
    note = StateEvent(
        seq=last + 1, at=at, event=event, status=job.status, attempt=job.attempt, actor=actor, reason=reason
    )
    return replace(job, events=(*job.events, note)[-EVENTS_KEPT:])
