"""A job, its attempts, and whose fault it was when it failed.

All values are frozen and changed by copy. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from app.domain.delivery import Delivery
from app.domain.evaluation import FrameRange, Json, Params, Report

EVENTS_KEPT = 50


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})


class Blame(StrEnum):
    """Whose fault a failure is. Only ``platform`` is retried."""

    CODE = "code"
    LIMIT = "limit"
    PLATFORM = "platform"


class ErrorType(StrEnum):
    EXCEPTION = "exception"
    INVALID_OUTPUT = "invalid_output"
    CONTRACT_VIOLATION = "contract_violation"
    INTEGRITY = "integrity"
    WALL_TIME_LIMIT = "wall_time_limit"
    CPU_TIME_LIMIT = "cpu_time_limit"
    MEMORY_LIMIT = "memory_limit"
    GPU_MEMORY_LIMIT = "gpu_memory_limit"
    OUTPUT_LIMIT = "output_limit"
    PROCESS_LIMIT = "process_limit"
    DISK_LIMIT = "disk_limit"
    SIGNALLED = "signalled"
    WORKER_LOST = "worker_lost"
    DEPENDENCY_UNAVAILABLE = "dependency_unavailable"
    INTERNAL_ERROR = "internal_error"

    @property
    def blame(self) -> Blame:
        return _BLAME[self]


_CODE = ("exception", "invalid_output", "contract_violation", "integrity", "signalled")
_PLATFORM = ("worker_lost", "dependency_unavailable", "internal_error")
_BLAME = {
    kind: Blame.CODE if kind.value in _CODE else Blame.PLATFORM if kind.value in _PLATFORM else Blame.LIMIT
    for kind in ErrorType
}


class Stage(StrEnum):
    LOAD = "load"
    ENCODE = "encode"
    DECODE = "decode"
    MEASURE = "measure"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why an attempt failed.

    ``limit`` and ``used`` are in the unit of the limit that was breached (seconds, bytes or a count). ``traceback``
    holds the submission's own frames only, ``log_tail`` the end of what it printed.
    """

    error_type: ErrorType
    message: str
    stage: Stage | None = None
    clip: str | None = None
    rate_point: int | None = None
    traceback: str | None = None
    limit: float | None = None
    used: float | None = None
    log_tail: str | None = None

    @property
    def blame(self) -> Blame:
        return self.error_type.blame


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one job may use: seconds, bytes and counts.

    ``wall_s`` is for each encode or decode call with its loading and ``setup``, ``start_s`` for loading and ``setup``
    alone, ``cpu_s`` for the processor time of all of a call's threads, ``job_s`` for all calls together.
    ``memory_bytes`` is for private and shared memory, stacks and scratch together. ``device_memory_bytes`` counts on
    lanes whose device has memory of its own, which a job never gets more of than its slot's share.
    """

    wall_s: float = 120.0
    start_s: float = 60.0
    cpu_s: float = 3600.0
    job_s: float = 1800.0
    memory_bytes: int = 4 * 1024**3
    device_memory_bytes: int = 1024**4
    output_bytes: int = 1024**3
    scratch_bytes: int = 1024**3
    log_bytes: int = 256 * 1024
    threads: int = 256
    open_files: int = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """What was asked for, with every default filled in.

    Code is held by the sha256 of its UTF-8 bytes, which the blob store keeps. ``device`` is what the caller wrote.
    ``contract`` and ``frame_format`` (``rgb`` or ``yuv420``) were found before queueing. ``body_sha256`` tells a repeat
    from another body. ``legacy`` holds the fields of ``POST /experiment`` that are only passed on.
    """

    encoder_sha256: str
    decoder_sha256: str
    contract: str
    body_sha256: str
    frame_format: str = "rgb"
    device: str = "auto"
    suite: str = "demo"
    clips: tuple[str, ...] = ()
    frames: FrameRange = field(default_factory=FrameRange)
    rate_points: tuple[Params, ...] = field(default_factory=lambda: ({},))
    metrics: tuple[str, ...] = ("psnr", "ssim")
    limits: Limits = field(default_factory=Limits)
    priority: int = 0
    seed: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    legacy: dict[str, Json] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at running the job. Numbers start at 1, without gaps; ``ended`` says how it ended, None while it runs."""

    number: int
    lane: str
    slot: int
    device: str
    device_name: str
    started_at: float
    ended_at: float | None = None
    ended: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StateEvent:
    """One change of a job, as kept with it. ``seq`` starts at 1 and has no gaps; the last 50 are kept."""

    seq: int
    at: float
    event: str
    status: Status
    attempt: int
    actor: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """``version`` counts commits; a store refuses a commit on another version than the stored one.

    ``owner`` is the client that submitted it, ``weight`` that client's share of a busy lane.
    ``report`` is there once there are points. A list of jobs leaves it out.
    """

    id: str
    experiment_id: str
    spec: JobSpec
    created_at: float
    owner: str = "local"
    weight: int = 1
    deliver_to: str | None = None
    version: int = 0
    status: Status = Status.QUEUED
    cancel_requested: bool = False
    attempts: tuple[Attempt, ...] = ()
    platform_failures: int = 0
    orphanings: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    fault: Fault | None = None
    report: Report | None = None
    delivery: Delivery | None = None
    events: tuple[StateEvent, ...] = ()

    @property
    def attempt(self) -> int:
        """The number of the newest attempt, 0 before the first."""
        return len(self.attempts)

    @property
    def unfinished(self) -> bool:
        """Whether a restart has to look at this job: it has to run, or its result has to be delivered."""
        return not self.status.terminal or (self.delivery is not None and self.delivery.next_at is not None)
