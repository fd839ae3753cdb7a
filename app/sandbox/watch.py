"""The watchdog beside the kernel's limits: memory of the whole process tree, and the scratch directory's size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from app.sandbox import processes


@dataclass(frozen=True, kw_only=True, slots=True)
class Breach:
    """A limit that was passed, in bytes."""

    error_type: str
    message: str
    limit: float
    used: float


class Watch:
    """Looks at a jail from outside, a few times a second.

    ``memory_bytes`` is what the job may use above what the jail starts with; frames that are handed over
    (``mapped_bytes``) are not counted against it. ``directory`` is None where the kernel bounds the scratch.
    """

    def __init__(
        self,
        *,
        pid: int,
        tree: Callable[[], Iterable[int]],
        memory_bytes: int,
        mapped_bytes: int,
        scratch_bytes: int,
        directory: str | None,
    ) -> None:
        self.memory_bytes = memory_bytes
        self.scratch_bytes = scratch_bytes
        self._pid = pid
        self._tree = tree
        self._mapped_bytes = mapped_bytes
        self._directory = directory
        self._start_bytes = 0
        self._peak_bytes = 0
        self.begin()

    def look(self) -> Breach | None:
        """Measure once; what is breached, if anything."""
        self._note_own_peak()
        allowed = self.memory_bytes + self._mapped_bytes
        if self._resident() > allowed:
            used = self._proportional()
            self._peak_bytes = max(self._peak_bytes, used)
            if used > allowed:
                message = f"the processes together held {used} bytes of memory, over the limit of {self.memory_bytes}"
                return Breach(error_type="memory_limit", message=message, limit=self.memory_bytes, used=used)
        return self._look_at_scratch()

    def begin(self) -> None:
        """What the process holds now is what the jail starts with."""
        now = processes.memory_of(self._pid)
        self._start_bytes = now.own_bytes if now else 0
        self._peak_bytes = 0

    def used_bytes(self) -> int:
        """The most memory seen so far, above the start."""
        self._note_own_peak()
        return self._peak_bytes

    def near_limit(self) -> bool:
        return self._peak_bytes > 0.9 * self.memory_bytes

    def _note_own_peak(self) -> None:
        """The kernel's high-water mark counts mapped library pages too; those that are mapped now are taken off."""
        now = processes.memory_of(self._pid)
        if now is not None:
            high = max(now.own_bytes, now.peak_bytes - now.file_bytes)
            self._peak_bytes = max(self._peak_bytes, high - self._start_bytes)

    def _resident(self) -> int:
        """An upper bound: pages that forked processes share are counted for each."""
        found = (processes.memory_of(pid) for pid in self._tree())
        return sum(max(0, memory.own_bytes - self._start_bytes) for memory in found if memory)

    def _proportional(self) -> int:
        """Every page counted once. Slower, so it is asked only where the upper bound is over the limit."""
        pids = list(self._tree())
        if len(pids) == 1:
            return self._resident()
        # What the zygote had before the fork is shared with it, and is nobody's here.
        shared = self._start_bytes * len(pids) // (len(pids) + 1)
        return max(0, sum(map(processes.proportional_of, pids)) - shared)

    def _look_at_scratch(self) -> Breach | None:
        if self._directory is None:
            return None
        used = _size_of(self._directory)
        if used <= self.scratch_bytes:
            return None
        message = f"the scratch directory held {used} bytes, over the limit of {self.scratch_bytes}"
        return Breach(error_type="disk_limit", message=message, limit=self.scratch_bytes, used=used)


def _size_of(directory: str) -> int:
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
    return total
