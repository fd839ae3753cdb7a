"""Resource limits of a jail. Each breach shows as an error in the jail or as a signal; ``faults.py`` names it."""

from __future__ import annotations

import math
import os
import resource
import time

_MOST_OPEN_FILES = 4096
_CPU_GRACE_S = 2
_SPARE_THREADS = 16
_PENDING_SIGNALS = 1024  # timers count here too
_REPORT_BYTES = 64 * 1024 * 1024


def limit_always() -> None:
    """What every jail gets before it knows its job: no core dumps, no message queues, few open files."""
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_MSGQUEUE, 0)
    _set(resource.RLIMIT_SIGPENDING, _PENDING_SIGNALS)
    _set(resource.RLIMIT_NOFILE, _MOST_OPEN_FILES)


def limit_open_files(count: int) -> None:
    _set(resource.RLIMIT_NOFILE, count)


def limit_threads(count: int) -> None:
    """The kernel counts all threads of a user: for a jail with a uid of its own. The watchdog counts exactly."""
    _set(resource.RLIMIT_NPROC, count + _SPARE_THREADS)


def limit_address_space(statm_fd: int, more_bytes: int) -> None:
    """So much more than the process has mapped now, as its open ``/proc/self/statm`` tells."""
    allowed = int(os.pread(statm_fd, 256, 0).split()[0]) * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed + _REPORT_BYTES))


def allow_reporting() -> None:
    """A little more address space, so that a process that has just run out can still say so."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def limit_file_size(size_bytes: int) -> None:
    """Larger files, memfds included, fail with EFBIG (Python ignores SIGXFSZ)."""
    _set(resource.RLIMIT_FSIZE, size_bytes)


def limit_cpu_time(cpu_s: float) -> None:
    """For whole seconds only, and a little later than the watchdog: this ends what that somehow did not.

    The kernel counts from the fork on, and opening a device takes seconds. At the soft limit it sends SIGXCPU, at the
    hard one SIGKILL, which would not say why.
    """
    soft = math.ceil(time.process_time() + cpu_s) + _CPU_GRACE_S
    _set(resource.RLIMIT_CPU, soft, soft + _CPU_GRACE_S)


def limit_locked_memory() -> None:
    _set(resource.RLIMIT_MEMLOCK, 0)


def _set(kind: int, soft: int, hard: int | None = None) -> None:
    wanted = soft if hard is None else hard
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        soft, wanted = min(soft, most), min(wanted, most)
    resource.setrlimit(kind, (soft, wanted))
