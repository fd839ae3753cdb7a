"""What is asked of a jail, and what comes of it."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

from app.sandbox.contracts.base import Geometry


@dataclass(frozen=True, kw_only=True, slots=True)
class CallLimits:
    """What one call may use: seconds, bytes and counts.

    ``wall_s`` bounds loading, setup and the call together, ``start_s`` loading and setup alone; ``cpu_s`` is the
    processor time of all threads. ``memory_bytes`` is for private and shared memory, stacks and scratch together, above
    what the jail starts with.
    """

    wall_s: float
    start_s: float
    cpu_s: float
    memory_bytes: int
    scratch_bytes: int
    output_bytes: int
    log_bytes: int
    device_memory_bytes: int
    threads: int
    open_files: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One encode (``input_fd`` holds the frames) or decode (``input_fd`` holds the bitstream, without any header).

    ``input_fd`` is a sealed memfd of ``input_bytes`` bytes that stays the caller's. ``threads`` is how many torch uses.
    """

    side: str
    contract: str
    code: str
    geometry: Geometry
    input_fd: int
    input_bytes: int
    limits: CallLimits
    params: dict[str, Any] | None = None
    seed: int = 0
    threads: int = 1

    @property
    def mapped_bytes(self) -> int:
        """What is mapped into the jail by the service: the frames, and a decoder's bitstream."""
        return self.geometry.nbytes + (self.input_bytes if self.side == "decode" else 0)

    @property
    def room_bytes(self) -> int:
        """How much the output may hold."""
        return self.geometry.nbytes if self.side == "decode" else self.limits.output_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A call's result. ``output`` is the bitstream (bytes), or the decoded frames (a read-only map, flat).

    ``call_s`` runs from "go" to "done". ``peak_memory_bytes`` is above what the jail started with.
    """

    output: bytes | mmap.mmap
    load_s: float
    setup_s: float
    call_s: float
    peak_memory_bytes: int
    peak_device_memory_bytes: int | None
    self_reported: dict[str, Any] | None
    log_tail: str


class SandboxLost(Exception):
    """The machinery broke: the zygote died, or a jail could not be made. Not the submission's fault."""


class BelowMinimum(SandboxLost):
    """The layers that can be had here are too few, which another zygote would not change."""


class JailFault(Exception):
    """The submission failed. ``limit`` and ``used`` are in the unit of the limit: seconds, bytes or a count."""

    def __init__(
        self,
        error_type: str,
        message: str,
        *,
        phase: str,
        traceback: str | None = None,
        limit: float | None = None,
        used: float | None = None,
        log_tail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.phase = phase
        self.traceback = traceback
        self.limit = limit
        self.used = used
        self.log_tail = log_tail
