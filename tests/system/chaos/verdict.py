"""Whether every promise was kept: the store, the deliveries and the machine after a campaign."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from app.domain.job import ErrorType, Job, Status
from app.domain.lifecycle import MAX_ORPHANINGS, MAX_PLATFORM_FAILURES
from app.routers.models import rfc3339
from tests.system.chaos.load import Book, End
from tests.system.chaos.orchestrator import Push
from tests.system.chaos.summary import Summary

# What each kind of submission may come to, apart from what is counted as a loss of ours.
WANTED = {
    "honest": ("succeeded",),
    "slow": ("succeeded",),
    "repeated": ("succeeded",),
    "raising": ("exception",),
    "cancelled": ("cancelled", "succeeded"),
}
_DELIVERY_EVENTS = ("Pushed", "RedeliverRequested")


def judge(summary: Summary, book: Book, jobs: list[Job], pushes: list[Push]) -> None:
    """Fill in the figures and the problems."""
    stored = defaultdict(list)
    for job in jobs:
        stored[job.id].append(job)
    _accepted(summary, book, stored)
    for rows in stored.values():
        for job in rows:
            _one(summary, book, job)
    _deliveries(summary, jobs, pushes)
    _ends(summary, jobs)


def _tell(summary: Summary, counter: str, problems: Iterable[str]) -> None:
    for problem in problems:
        setattr(summary, counter, getattr(summary, counter) + 1)
        summary.problems.append(problem)


def _accepted(summary: Summary, book: Book, stored: dict[str, list[Job]]) -> None:
    summary.accepted = len(book.accepted)
    lost = [f"{job_id} was accepted and is not stored" for job_id in book.accepted if job_id not in stored]
    _tell(summary, "lost", lost)
    _tell(summary, "double", [f"{job_id} has {len(rows)} rows" for job_id, rows in stored.items() if len(rows) != 1])
    summary.problems += book.problems


def _one(summary: Summary, book: Book, job: Job) -> None:
    if not job.status.terminal:
        _tell(summary, "stuck", [f"{job.id} is {job.status}: {_history(job)}"])
        return
    ends = [event for event in job.events if event.status.terminal and event.event not in _DELIVERY_EVENTS]
    if len(ends) != 1:
        _tell(summary, "double", [f"{job.id} ended {len(ends)} times: {_history(job)}"])
    seen = book.ended.get(job.id)
    if seen is not None and seen != _end(job):
        _tell(summary, "double", [f"{job.id} was seen as {seen} and is {_end(job)}: {_history(job)}"])
    _tell(summary, "wrong", _gaps(job))
    _result(summary, book, job)


def _end(job: Job) -> End:
    return End(job.status.value, job.fault.error_type.value if job.fault else None, str(rfc3339(job.finished_at)))


def _gaps(job: Job) -> Iterable[str]:
    if [attempt.number for attempt in job.attempts] != list(range(1, len(job.attempts) + 1)):
        yield f"{job.id} has attempts {[attempt.number for attempt in job.attempts]}"
    if any(attempt.ended is None for attempt in job.attempts):
        yield f"{job.id} has ended, but not all of its attempts: {_history(job)}"
    numbers = [event.seq for event in job.events]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        yield f"{job.id} has events {numbers}"


def _result(summary: Summary, book: Book, job: Job) -> None:
    kind = book.accepted.get(job.id) or job.spec.labels["kind"]
    end = _end(job)
    if (end.error_type or end.state) in WANTED[kind]:
        if job.status is Status.SUCCEEDED and (job.report is None or not all(p.lossless for p in job.report.points)):
            _tell(summary, "wrong", [f"{job.id} succeeded without a lossless report"])
        return
    if end.error_type == ErrorType.SIGNALLED:
        summary.jails_lost += 1
        if summary.jails_lost > summary.kills.get("jail", 0):
            _tell(summary, "wrong", [f"{job.id} is signalled, though not so many jails were killed"])
    elif end.error_type == ErrorType.WORKER_LOST and _ran_out(job):
        summary.out_of_retries += 1
    else:
        _tell(summary, "wrong", [f"{job.id} ({kind}) came to {end}: {_history(job)} {job.fault}"])


def _ran_out(job: Job) -> bool:
    failures = Counter(attempt.ended for attempt in job.attempts)
    return failures["broke"] >= MAX_PLATFORM_FAILURES or failures["orphaned"] >= MAX_ORPHANINGS


def _deliveries(summary: Summary, jobs: list[Job], pushes: list[Push]) -> None:
    """Bodies are compared whole: the fresh time stamp and the signature of each try are in its headers."""
    contents: dict[str, list[str]] = defaultdict(list)
    for push in pushes:
        contents[push.webhook_id].append(json.dumps(push.body, sort_keys=True))
    summary.pushes = len(pushes)
    summary.repeated_pushes = len(pushes) - len(contents)
    for job in jobs:
        if not job.status.terminal:
            continue
        taken = contents.pop(f"msg_{job.id}", [])
        state = None if job.delivery is None else job.delivery.state.value
        if state != "delivered":
            _tell(summary, "stuck", [f"{job.id} is not delivered but {state}: {_history(job)}"])
        if not taken:
            _tell(summary, "lost", [f"{job.id} has no delivery that was taken"])
        elif len(set(taken)) > 1:
            _tell(summary, "double", [f"{job.id} was delivered with {len(set(taken))} contents: {taken}"])
        elif json.loads(taken[0])["state"] != job.status.value:
            _tell(summary, "wrong", [f"{job.id} is {job.status} and was delivered as {taken[0]}"])
    _tell(summary, "double", [f"{webhook_id} was delivered and belongs to no job" for webhook_id in contents])


def _ends(summary: Summary, jobs: list[Job]) -> None:
    summary.results = dict(Counter(_end(job).error_type or job.status.value for job in jobs if job.status.terminal))
    summary.attempts = sum(len(job.attempts) for job in jobs)
    summary.most_attempts = max((len(job.attempts) for job in jobs), default=0)
    summary.attempts_ended = dict(Counter(attempt.ended or "running" for job in jobs for attempt in job.attempts))


def _history(job: Job) -> str:
    return ", ".join(f"{event.event}>{event.status.value}" for event in job.events)


def blobs(data: Path, jobs: list[Job]) -> Iterable[str]:
    """What is half-written, damaged or missing after a clean stop."""
    root = data / "blobs"
    yield from (f"{path.name} was left half-written" for path in (root / "tmp").glob("*"))
    whole = set()
    for path in root.glob("??/*"):
        whole.add(path.name)
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"blob {path.name} is damaged"
    for job in jobs:
        if not {job.spec.encoder_sha256, job.spec.decoder_sha256} <= whole:
            yield f"the code of {job.id} is gone"
