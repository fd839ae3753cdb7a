"""Looking at and ending process trees through /proc."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_PAUSE_S = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Bytes that a process has resident: ``own_bytes`` anonymous and shared, ``peak_bytes`` the most of all kinds.

    ``leaderless`` says that its first thread has ended: then the kernel tells none of this, whatever the others do.
    """

    own_bytes: int
    file_bytes: int
    peak_bytes: int
    threads: int
    leaderless: bool


def usage_of(pid: int) -> Usage | None:
    """What the kernel says about a process; None if it has gone."""
    fields = {"RssAnon": 0, "RssShmem": 0, "RssFile": 0, "VmHWM": 0, "Threads": 0}
    ended = False
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "State":
                    ended = value.split()[0] in "ZX"
                if name in fields:
                    fields[name] = int(value.split()[0])
    except (OSError, ValueError):
        return None
    return Usage(
        own_bytes=(fields["RssAnon"] + fields["RssShmem"]) * 1024,
        file_bytes=fields["RssFile"] * 1024,
        peak_bytes=fields["VmHWM"] * 1024,
        threads=fields["Threads"],
        leaderless=ended and fields["Threads"] > 1,
    )


def cpu_s_of(pid: int) -> float:
    """Seconds of processor time that all threads of a process have used; 0 if it has gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def proportional_of(pid: int) -> int:
    """Bytes of anonymous and shared memory, each page divided by the number of processes that map it; 0 if gone."""
    total = 0
    with suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
    return total


def close_from(first: int) -> None:
    """Close every descriptor of this process from that number on.

    By its own list: a kernel that cannot close a range has to be asked about each number that there might be, of which
    some containers have a billion.
    """
    try:
        listed = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))
        return
    for fd in listed:
        if fd >= first:
            with suppress(OSError):  # the list's own
                os.close(fd)


def pid_of(pidfd: int) -> int | None:
    """The number, in our own namespace, of the process behind a pidfd; None if it has been reaped, or is not told.

    (Before Linux 5.14 an undumpable process without privileges may not read this of itself.)
    """
    with suppress(OSError), open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                pid = int(line.split()[1])
                return pid if pid > 0 else None
    return None


def pid_below(ancestor: int, number: int, *, depth: int) -> int | None:
    """The descendant whose number is ``number`` in a namespace so many levels below our own; None if there is none."""
    for pid in tree_of(ancestor):
        if _numbers_of(pid)[depth : depth + 1] == [number]:
            return pid
    return None


def _numbers_of(pid: int) -> list[int]:
    """In our own namespace, and in each one below that the process is in."""
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return [int(number) for number in line.split()[1:]]
    return []


def children_of(pid: int) -> list[int]:
    """Direct children; empty where the process has gone or the kernel does not list them."""
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found.extend(int(child) for child in file.read().split())
    return found


def tree_of(pid: int) -> Iterator[int]:
    """The process and all its descendants, as far as they can be seen at this moment."""
    waiting, seen = [pid], {pid}
    while waiting:
        current = waiting.pop()
        yield current
        for child in children_of(current):
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def kill_orphans(spared: set[int], *, sweeps: int) -> int:
    """Kill and reap every child of this process but the spared ones, again until none are left; how many remain.

    This process is a subreaper, so that whatever a jail detached becomes its child once the jail is dead.
    """
    for _ in range(sweeps):
        left = [pid for pid in _children_by_parent(os.getpid()) if pid not in spared]
        if not left:
            return 0
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_PAUSE_S)
    return len([pid for pid in _children_by_parent(os.getpid()) if pid not in spared])


def _children_by_parent(parent: int) -> list[int]:
    """By asking every process for its parent: works on kernels that do not list children."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(name))
    return found
