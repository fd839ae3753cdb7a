"""Lanes, the devices that they stand on, and which queued job runs next.

A lane is a name, a torch device and a number of slots. Within a lane jobs run by priority, then in the order of their
acceptance. A job that may use several lanes is taken by whichever is free first.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.domain.errors import FieldError, InvalidSpec
from app.domain.job import Job

MAX_SLOTS = 64


class Device(StrEnum):
    """The kinds of device that a lane can stand on."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """``device`` is a torch device (``cpu``, ``cuda:0``)."""

    name: str
    device: str
    slots: int = 1

    @property
    def kind(self) -> Device:
        return Device(self.device.partition(":")[0])

    @property
    def note(self) -> str | None:
        """What a reader of the lane's name has to know: a lane named for a GPU may stand on the CPU."""
        if self.kind is Device.CPU and self.name.startswith(("gpu", "cuda")):
            return f"lane {self.name!r} stands on the CPU: its figures are not a GPU's"
        return None


_LANE = re.compile(r"(?P<name>[a-z][a-z0-9_-]{0,31})=(?P<device>cpu|cuda(?::\d{1,2})?)(?:\*(?P<slots>\d{1,3}))?")


def parse_lanes(text: str) -> tuple[Lane, ...]:
    """``cpu=cpu*2,gpu=cuda:0*1`` as lanes; ``none`` and the empty text are no lane. Raises ``ValueError``."""
    if text.strip() in ("", "none"):
        return ()
    lanes: list[Lane] = []
    for part in text.split(","):
        match = _LANE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a lane: write name=device*slots, for example gpu=cuda:0*1")
        slots = int(match["slots"] or 1)
        if not 1 <= slots <= MAX_SLOTS:
            raise ValueError(f"lane {match['name']!r} has {slots} slots: 1 to {MAX_SLOTS} are possible")
        if match["name"] in {"auto", "none"}:
            raise ValueError(f"a lane cannot be named {match['name']!r}: that word means something else")
        device = "cuda:0" if match["device"] == "cuda" else match["device"]
        lanes.append(Lane(name=match["name"], device=device, slots=slots))
    names = [lane.name for lane in lanes]
    if len(set(names)) != len(names):
        raise ValueError("two lanes have the same name")
    return tuple(lanes)


def eligible_lanes(device: str, lanes: Sequence[Lane]) -> frozenset[str]:
    """The names of the lanes that a job asking for ``device`` may use.

    A lane's name wins over a kind; ``auto`` is every lane; ``cuda`` and ``gpu`` are any CUDA lane. Raises
    ``InvalidSpec`` where nothing matches.
    """
    if device == "auto":
        found = frozenset(lane.name for lane in lanes)
    elif any(lane.name == device for lane in lanes):
        return frozenset({device})
    else:
        kind = "cuda" if device == "gpu" else device
        found = frozenset(lane.name for lane in lanes if kind in (lane.kind.value, lane.device))
    if not found:
        offered = ", ".join(f"{lane.name} ({lane.device})" for lane in lanes) or "none at all"
        raise InvalidSpec([FieldError(field="device", message=f"no lane for {device!r}; this service has: {offered}")])
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A queued job, as little of it as choosing needs."""

    job_id: str
    priority: int
    created_at: float
    lanes: frozenset[str]

    @property
    def key(self) -> tuple[int, float, str]:
        return (-self.priority, self.created_at, self.job_id)


def waiting(job: Job, lanes: frozenset[str]) -> Waiting:
    return Waiting(job_id=job.id, priority=job.spec.priority, created_at=job.created_at, lanes=lanes)


class WaitingJobs:
    """The queued jobs in order.

    Jobs that may use the same lanes stand in one sorted list, so that choosing looks at one head a list and a position
    is a few bisections.
    """

    def __init__(self) -> None:
        self._groups: dict[frozenset[str], list[tuple[int, float, str]]] = {}
        self._jobs: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def add(self, job: Waiting) -> None:
        """Adding a job that is there already changes nothing."""
        if job.job_id not in self._jobs:
            self._jobs[job.job_id] = job
            insort(self._groups.setdefault(job.lanes, []), job.key)

    def discard(self, job_id: str) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None:
            group = self._groups[job.lanes]
            del group[bisect_left(group, job.key)]
            if not group:
                del self._groups[job.lanes]

    def heads(self, lane: str) -> Iterable[Waiting]:
        """The first job of every list that the lane may take from."""
        return (self._jobs[group[0][2]] for lanes, group in self._groups.items() if lane in lanes)

    def position(self, job_id: str) -> int | None:
        """How many jobs stand before this one that could take a lane which it may use; None if it does not wait."""
        job = self._jobs.get(job_id)
        if job is None:
            return None
        return sum(bisect_left(group, job.key) for lanes, group in self._groups.items() if lanes & job.lanes)

    def depth(self, lane: str) -> int:
        """How many waiting jobs may use the lane."""
        return sum(len(group) for lanes, group in self._groups.items() if lane in lanes)


def next_job(lane: Lane, jobs: WaitingJobs) -> Waiting | None:
    """The job that a free slot of ``lane`` runs next."""
    return min(jobs.heads(lane.name), key=lambda job: job.key, default=None)
