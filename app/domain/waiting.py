"""The queued jobs in order, and which of them a free slot runs next.

Higher priority first. Within a priority clients share a lane by their weights (start-time fair queueing, Goyal et al.
1996, with one job as the unit of service): a client's next job starts, in the lane's virtual time, when its last one
was served, or now if it has not been here for a while. So a client that comes with one job is next, however many jobs
another has queued. Within a client jobs run in the order of their acceptance.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from app.domain.access import MAX_WEIGHT
from app.domain.job import Job

# Virtual time is counted in whole units, so that the order never depends on rounding.
_UNIT = 10**6
_REMEMBERED = 1024

Place: TypeAlias = tuple[float, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A queued job, as little of it as choosing needs."""

    job_id: str
    priority: int
    created_at: float
    lanes: frozenset[str]
    client: str = "local"
    weight: int = 1

    @property
    def place(self) -> Place:
        """Its place among its client's jobs of the same priority."""
        return (self.created_at, self.job_id)

    @property
    def stride(self) -> int:
        """What one job costs this client in virtual time."""
        return _UNIT // min(max(self.weight, 1), MAX_WEIGHT)


def waiting(job: Job, lanes: frozenset[str]) -> Waiting:
    return Waiting(
        job_id=job.id,
        priority=job.spec.priority,
        created_at=job.created_at,
        lanes=lanes,
        client=job.owner,
        weight=job.weight,
    )


class _Share:
    """The virtual time of one priority on one lane.

    It is ``now``; kept are the clients whose next job would start later than that, and when.
    """

    def __init__(self) -> None:
        self.now = 0
        self._next: dict[str, int] = {}

    def start(self, client: str) -> int:
        return max(self._next.get(client, 0), self.now)

    def serve(self, job: Waiting) -> None:
        self.now = self.start(job.client)
        self._next[job.client] = self.now + job.stride
        if len(self._next) > _REMEMBERED:
            self._next = {client: at for client, at in self._next.items() if at > self.now}


@dataclass(frozen=True, slots=True)
class _Group:
    """Jobs that differ only in when they came."""

    lanes: frozenset[str]
    priority: int
    client: str


class WaitingJobs:
    """Each group of jobs is a sorted list, so that choosing looks at one head a group."""

    def __init__(self) -> None:
        self._groups: dict[_Group, list[Place]] = {}
        self._jobs: dict[str, Waiting] = {}
        self._of_client: Counter[str] = Counter()
        self._shares: defaultdict[tuple[str, int], _Share] = defaultdict(_Share)

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def add(self, job: Waiting) -> None:
        """Adding a job that is there already changes nothing."""
        if job.job_id not in self._jobs:
            self._jobs[job.job_id] = job
            self._of_client[job.client] += 1
            insort(self._groups.setdefault(_group(job), []), job.place)

    def discard(self, job_id: str) -> None:
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        self._of_client[job.client] -= 1
        if not self._of_client[job.client]:
            del self._of_client[job.client]
        group = self._groups[_group(job)]
        del group[bisect_left(group, job.place)]
        if not group:
            del self._groups[_group(job)]

    def next(self, lane: str, spared: frozenset[str] = frozenset()) -> Waiting | None:
        """The job that a free slot of the lane runs next; it stays here. What a lane of ``spared`` may run is left."""
        heads = [
            self._jobs[places[0][1]]
            for group, places in self._groups.items()
            if lane in group.lanes and not group.lanes & spared
        ]
        if not heads:
            return None
        highest = max(job.priority for job in heads)
        share = self._shares[lane, highest]
        return min(
            (job for job in heads if job.priority == highest), key=lambda job: (share.start(job.client), job.place)
        )

    def take(self, lane: str, job: Waiting) -> None:
        """A slot of the lane runs the job: it leaves, and its client has had a turn there."""
        self.discard(job.job_id)
        self._shares[lane, job.priority].serve(job)

    def position(self, job_id: str) -> int | None:
        """How many jobs stand before this one that could take a lane which it may use; None if it does not wait.

        It is exact where all of them may use one lane. Of several lanes it takes that on which a client is best off.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return None
        higher, own = 0, 0
        rivals = defaultdict[str, list[list[Place]]](list)
        for group, places in self._groups.items():
            if not group.lanes & job.lanes or group.priority < job.priority:
                continue
            if group.priority > job.priority:
                higher += len(places)
            elif group.client == job.client:
                own += bisect_left(places, job.place)
            else:
                rivals[group.client].append(places)
        start = self._lead(job.client, job) + own * job.stride
        return higher + own + sum(self._before(job, start, client, lists) for client, lists in rivals.items())

    def _before(self, job: Waiting, start: int, client: str, lists: list[list[Place]]) -> int:
        """How many of a rival's jobs start before ``start``, or at the same time having come earlier."""
        stride = self._jobs[lists[0][0][1]].stride
        waits = sum(map(len, lists))
        lead = start - self._lead(client, job)
        if lead < 0:
            return 0
        earlier, rest = divmod(lead, stride)
        if rest:
            return min(waits, earlier + 1)
        if earlier >= waits:
            return waits
        return earlier + (_nth(lists, earlier) < job.place)

    def _lead(self, client: str, job: Waiting) -> int:
        """How far from now the client's next start is, beside the job."""
        shares = [self._shares[lane, job.priority] for lane in job.lanes]
        return min(share.start(client) - share.now for share in shares)

    def depth(self, lane: str) -> int:
        """How many waiting jobs may use the lane."""
        return sum(len(places) for group, places in self._groups.items() if lane in group.lanes)

    def of_client(self, client: str) -> int:
        return self._of_client[client]

    def clients(self, lane: str) -> int:
        """How many clients have jobs waiting that may use the lane."""
        return len({group.client for group in self._groups if lane in group.lanes})


def _group(job: Waiting) -> _Group:
    return _Group(job.lanes, job.priority, job.client)


def _nth(lists: list[list[Place]], index: int) -> Place:
    if len(lists) == 1:
        return lists[0][index]
    merged: Iterator[Place] = heapq.merge(*lists)
    return next(islice(merged, index, None))
