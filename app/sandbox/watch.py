"""The watchdog beside the kernel's limits: memory of the whole process tree and on devices, CPU time, threads, the
scratch's size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from app.sandbox import processes, scratch
from app.sandbox.request import CallLimits

# A look at the devices takes locks of the driver, which a call that is timed needs too.
_LOOKS_A_DEVICE_LOOK = 4
# What libraries load on a device when they are first used is not in any allocator's books.
_DEVICE_SLACK_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Breach:
    """A limit that was passed, in its unit."""

    error_type: str
    message: str
    limit: float | None = None
    used: float | None = None


class Watch:
    """Looks at a jail from outside, a few times a second.

    Frames that are handed over (``mapped_bytes``) are not counted against the memory. ``directory`` is the scratch
    where the jail could not mount one; where it could, ``scratch_fd`` shows it, and what lies in it is memory too.
    ``device`` tells how many bytes a process holds on devices, or None; ``device_bytes`` is how many it may.
    """

    def __init__(
        self,
        *,
        pid: int,
        tree: Callable[[], Iterable[int]],
        limits: CallLimits,
        mapped_bytes: int,
        directory: str | None,
        device: Callable[[int], int | None] | None = None,
    ) -> None:
        self.scratch_fd: int | None = None
        self.device_bytes = limits.device_memory_bytes
        self._limits = limits
        self._pid = pid
        self._tree = tree
        self._mapped_bytes = mapped_bytes
        self._directory = directory
        self._device = device
        self._start_device_bytes = 0
        self._looks = 0
        self._start_bytes = 0
        self._start_cpu_s = 0.0
        self._peak_bytes = 0
        self._start_threads = 0
        self._threads = 0
        self._leaderless = False
        self._cpu_s = 0.0

    def begin(self) -> None:
        """What the process holds now is what the jail starts with."""
        now = processes.usage_of(self._pid)
        self._start_bytes = now.own_bytes if now else 0
        # A device's driver has threads of its own. The first one is where the submission will run.
        self._start_threads = now.threads - 1 if now else 0
        self._start_cpu_s = processes.cpu_s_of(self._pid)
        self._peak_bytes = 0
        self._start_device_bytes = self._on_device()

    def threads(self) -> int:
        """How many there are now."""
        now = processes.usage_of(self._pid)
        return now.threads if now else 0

    def close(self) -> None:
        """Let go of the scratch."""
        fd, self.scratch_fd = self.scratch_fd, None
        if fd is not None:
            os.close(fd)

    def look(self) -> Breach | None:
        """Measure once; what is breached, if anything."""
        self._note()
        if self._leaderless:
            return Breach(error_type="contract_violation", message="the main thread ended while others went on")
        return self._memory() or self._cpu() or self._count() or self._scratch() or self._device_memory()

    def account(self, kind: str, limit: float | None, used: float | None) -> tuple[float | None, float | None]:
        """The limit that was breached and what was used of it, as seen from here; else as the jail told it."""
        self._note()
        if kind == "memory_limit":
            return self._limits.memory_bytes, self.used_bytes()
        if kind == "disk_limit":
            return self._limits.scratch_bytes, self._scratch_bytes()
        if kind == "cpu_time_limit":
            return self._limits.cpu_s, self._cpu_s
        if kind == "process_limit" and limit is None:
            return self._limits.threads, self._threads
        return limit, used

    def used_bytes(self) -> int:
        """The most memory seen so far, above the start."""
        return self._peak_bytes

    def near_limit(self) -> bool:
        return self._peak_bytes > 0.9 * self._limits.memory_bytes

    def _note(self) -> None:
        """The kernel's high-water mark counts mapped library pages too; those that are mapped now are taken off."""
        now = processes.usage_of(self._pid)
        if now is not None:
            high = max(now.own_bytes, now.peak_bytes - now.file_bytes)
            self._peak_bytes = max(self._peak_bytes, high - self._start_bytes)
            self._threads = now.threads - self._start_threads
            self._leaderless = now.leaderless
            self._cpu_s = max(self._cpu_s, processes.cpu_s_of(self._pid) - self._start_cpu_s)

    def _memory(self) -> Breach | None:
        scratch = self._mounted_bytes()
        allowed = self._limits.memory_bytes + self._mapped_bytes
        if self._resident() + scratch <= allowed:
            return None
        used = self._proportional() + scratch
        self._peak_bytes = max(self._peak_bytes, used)
        if used <= allowed:
            return None
        limit = self._limits.memory_bytes
        message = f"the process held {used} bytes of memory, its scratch included, over the limit of {limit}"
        return Breach(error_type="memory_limit", message=message, limit=limit, used=used)

    def _resident(self) -> int:
        """An upper bound: pages that forked processes share are counted for each."""
        found = (processes.usage_of(pid) for pid in self._tree())
        return sum(max(0, usage.own_bytes - self._start_bytes) for usage in found if usage)

    def _proportional(self) -> int:
        """Every page counted once. Slower, so it is asked only where the upper bound is over the limit."""
        pids = list(self._tree())
        if len(pids) <= 1:
            return self._resident()
        # What the zygote had before the fork is shared with it, and is nobody's here.
        shared = self._start_bytes * len(pids) // (len(pids) + 1)
        return max(0, sum(map(processes.proportional_of, pids)) - shared)

    def _cpu(self) -> Breach | None:
        limit, used = self._limits.cpu_s, self._cpu_s
        if used <= limit:
            return None
        message = f"the process used {used:.2f} s of CPU time, over the limit of {limit:g} s"
        return Breach(error_type="cpu_time_limit", message=message, limit=limit, used=used)

    def _count(self) -> Breach | None:
        limit, used = self._limits.threads, self._threads
        if used <= limit:
            return None
        message = f"the process had {used} threads, over the limit of {limit}"
        return Breach(error_type="process_limit", message=message, limit=limit, used=used)

    def _device_memory(self) -> Breach | None:
        """torch bounds what it allocates itself; this is for memory that was had past it."""
        self._looks += 1
        if self._looks % _LOOKS_A_DEVICE_LOOK:
            return None
        limit, used = self.device_bytes, self._on_device() - self._start_device_bytes
        if used <= limit + _DEVICE_SLACK_BYTES:
            return None
        message = f"the process held {used} bytes of device memory, over the limit of {limit}"
        return Breach(error_type="gpu_memory_limit", message=message, limit=limit, used=used)

    def _on_device(self) -> int:
        """0 also where nobody can tell."""
        return 0 if self._device is None else self._device(self._pid) or 0

    def _scratch(self) -> Breach | None:
        """Where the scratch is mounted, the kernel bounds it."""
        limit = self._limits.scratch_bytes
        if self._directory is None:
            return None
        try:
            used = scratch.size_of(self._directory, self._pid)
        except scratch.Unmeasurable as error:
            message = f"the scratch directory cannot be measured: {error}"
            return Breach(error_type="disk_limit", message=message, limit=limit)
        if used <= limit:
            return None
        message = f"the scratch directory held {used} bytes, over the limit of {limit}"
        return Breach(error_type="disk_limit", message=message, limit=limit, used=used)

    def _scratch_bytes(self) -> int | None:
        if self._directory is None:
            return self._mounted_bytes()
        with suppress(scratch.Unmeasurable):
            return scratch.size_of(self._directory, self._pid)
        return None

    def _mounted_bytes(self) -> int:
        if self.scratch_fd is None:
            return 0
        told = os.fstatvfs(self.scratch_fd)
        return (told.f_blocks - told.f_bfree) * told.f_frsize
