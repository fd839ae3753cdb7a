"""What the engine needs from the world, and what it may rely on.

Every method may raise ``PlatformError``; the errors named in a docstring are those that callers act on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from app.domain.access import ApiKey
from app.domain.delivery import Answer
from app.domain.errors import FieldError
from app.domain.evaluation import Json, Report, Suite
from app.domain.job import Fault, Job, JobSpec, Status
from app.domain.lanes import LaneMode
from app.domain.lifecycle import AttemptEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Jobs, newest first, without their reports; ``cursor`` asks for the next page, None at the end."""

    jobs: tuple[Job, ...]
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFilter:
    """Every field that is not None must match. ``lane`` is the lane of the newest attempt."""

    state: Status | None = None
    lane: str | None = None
    experiment_id: str | None = None
    owner: str | None = None


class Store(Protocol):
    """Jobs, one row each. What a method has written is durable when it returns: a kill or a power cut keeps it.

    Raises ``StoreUnavailable`` where the store does not answer; then nothing, or everything, was written.
    """

    async def add(self, job: Job) -> Job:
        """Write a new job and return it at version 1. It becomes the newest of its owner's experiment.

        Raises ``Conflict`` if a job with this id exists.
        """

    async def commit(self, job: Job) -> Job:
        """Write the job, its delivery, report and events in one atomic step; return it at the next version.

        Raises ``StaleVersion`` if the stored job's version is not ``job.version`` or if there is none, or if a later
        holder of the store has written it.
        """

    async def get(self, job_id: str) -> Job | None:
        """The job with its report, as last committed (never an older version)."""

    async def newest(self, experiment_id: str, owner: str = "local") -> Job | None:
        """The job of this owner's experiment that was added last, with its report."""

    async def page(self, wanted: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        """Jobs by ``created_at``, newest first. Raises ``InvalidSpec`` naming ``cursor`` for one that is not ours."""

    def unfinished(self) -> AsyncIterator[Job]:
        """Every job whose ``unfinished`` is true, without its report, in any order, each once; none is missed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """A result that another worker pushed. ``webhook_id`` tells repeats apart."""

    webhook_id: str
    experiment_id: str
    received_at: float
    payload: dict[str, Json]


class Inbox(Protocol):
    """Results that were pushed to this service; same durability as ``Store``."""

    async def receive(self, received: Received) -> bool:
        """Keep it, durably; False if this ``webhook_id`` was kept before (the first content stays)."""

    async def received(self, experiment_id: str) -> Received | None:
        """The newest result of that experiment."""

    async def experiments(self, *, limit: int) -> Sequence[str]:
        """Ids of experiments with a received result, newest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a store: ``data`` is the data folder's absolute path."""

    worker_id: str
    host: str
    data: str
    pid: int


class Lease(Protocol):
    """At most one service is active on a store.

    The holder's epoch grows with every change of hands and is carried by every commit. The same host and data folder
    takes over at once after a kill (a local file lock tells that the old process is gone); another host after
    ``lease_s`` without a heartbeat.
    """

    async def acquire(self, holder: Holder) -> int:
        """Take the store and return the epoch. Raises ``StoreHeld`` naming who holds it and since when."""

    async def renew(self) -> None:
        """The heartbeat. Raises ``StoreHeld`` if another holder took over; then nothing may be written any more."""

    async def release(self) -> None:
        """Give the store back; also safe when it was never taken."""


class Blobs(Protocol):
    """Bytes by their sha256 (64 lower-case hex digits)."""

    async def put(self, data: bytes) -> str:
        """Keep the bytes, durably, and return their sha256. Putting the same bytes twice keeps them once."""

    async def get(self, sha256: str) -> bytes:
        """The bytes, checked against the hash. Raises ``NotFound``."""

    async def check(self) -> None:
        """Raises ``StoreUnavailable`` (``DiskFull``) if the least put would fail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spooled:
    """How an attempt ended, for as long as the store has not taken it."""

    job_id: str
    event: AttemptEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoolful:
    """``damaged`` names what could not be read and was set aside."""

    entries: tuple[Spooled, ...] = ()
    damaged: tuple[str, ...] = ()


class Spool(Protocol):
    """A place beside the store, on this machine, for what the store cannot take yet.

    What was put is there after a kill or a power cut, until it is removed. Raises ``StoreUnavailable`` (``DiskFull``).
    """

    async def put(self, spooled: Spooled) -> None:
        """Keep it, durably, in place of what there was of the same job and attempt."""

    async def all(self) -> Spoolful:
        """All that is kept, each whole. What is damaged is set aside, and never in the way."""

    async def remove(self, job_id: str, attempt: int) -> None:
        """The store has it now. Safe to call twice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """``free_bytes`` is what this process may still fill."""

    free_bytes: int
    total_bytes: int


class Disk(Protocol):
    async def space(self) -> Space:
        """How full the disk under the data folder is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One attempt, as an executor gets it."""

    job_id: str
    attempt: int
    spec: JobSpec
    encoder: str
    decoder: str
    lane: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Succeeded:
    report: Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """``report`` has the points that were measured before it failed, None if there are none."""

    fault: Fault
    report: Report | None = None


Outcome: TypeAlias = Succeeded | Failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an attempt is: ``done`` of ``total`` calls (an encode or a decode each)."""

    done: int
    total: int
    stage: str
    clip: str | None = None
    rate_point: int | None = None
    eta_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """What a warm executor says about itself; ``jail`` names the layers that are in force."""

    device: str
    device_name: str
    jail: tuple[str, ...] = ()


class Keys(Protocol):
    """The API keys, as they are at the moment of the call: one that was revoked is refused from then on."""

    def find(self, key_id: str) -> ApiKey | None:
        """The key, whether it is still taken or not. Raises ``StoreUnavailable`` if the keys cannot be read."""

    def required(self) -> bool:
        """Whether callers have to show a key: once there was one, they have to, also when all are revoked."""


class LaneModes(Protocol):
    """What operators have the lanes do; it outlives the service."""

    async def load(self) -> dict[str, LaneMode]: ...

    async def save(self, modes: Mapping[str, LaneMode]) -> None:
        """Durable when it returns."""


class Executor(Protocol):
    """One lane slot: it holds the device and runs one attempt at a time."""

    async def warm(self) -> Ready:
        """Return once an attempt can start, starting or restarting what is needed. Raises ``WorkerLost``."""

    async def gone(self) -> None:
        """Return when what ``warm`` made ready has died. Never raises."""

    async def run(self, work: Work, observe: Callable[[Progress], None]) -> Outcome:
        """Run the attempt. Raises ``WorkerLost`` if a process of ours died.

        Cancelling this await is the kill: when it has ended, nothing of the attempt runs any more.
        """

    async def stop(self) -> None:
        """End every process. Safe to call twice."""


class Pusher(Protocol):
    async def push(self, target: str, webhook_id: str, payload: dict[str, Json]) -> Answer:
        """Try once to deliver to the named target, freshly stamped and signed. Never raises for the target's faults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What reading the code, without running it, showed. ``checked`` is False if that took too long."""

    contract: str | None = None
    frame_format: str = "rgb"
    errors: tuple[FieldError, ...] = ()
    checked: bool = True


class Inspector(Protocol):
    async def inspect(self, encoder: str, decoder: str, contract: str) -> Inspection:
        """Check the syntax of both in a limited process; find the contract that they follow, if it is ``auto``."""


class Catalogue(Protocol):
    def suites(self) -> Sequence[Suite]:
        """Every suite that can be asked for, by name."""

    def problems(self) -> dict[str, str]:
        """Why a suite that is there cannot be used, by its name."""


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch, UTC."""

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...
