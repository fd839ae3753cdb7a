"""Which processes the service consists of at this moment, by what /proc tells, and which of them are still there."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.sandbox import processes

VICTIMS = ("api", "evaluator", "zygote", "jail")


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """``started`` is in the kernel's ticks since it booted: a number is used again, both together are not."""

    pid: int
    started: int
    role: str = "other"

    @property
    def alive(self) -> bool:
        seen = look(self.pid)
        return seen is not None and seen.started == self.started

    def kill(self) -> bool:
        """Whether it was there to be killed. Held by descriptor, so that no other process with its number is hit."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive:
                return False
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True


def look(pid: int, role: str = "other") -> Process | None:
    """The process with this number; None if there is none, or if only its exit status is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else Process(pid=pid, started=int(fields[19]), role=role)


def of_service(pid: int) -> list[Process]:
    """The API process and everything below it, each with its role."""
    found = [look(pid, "api")]
    for child in processes.children_of(pid):
        if "evaluator_main" in _command(child):
            found += [look(child, "evaluator"), *_below_evaluator(child)]
        else:
            found += [look(member) for member in processes.tree_of(child)]
    return [process for process in found if process is not None]


def _below_evaluator(pid: int) -> Iterable[Process | None]:
    for zygote in processes.children_of(pid):
        yield look(zygote, "zygote")
        below = processes.tree_of(zygote)
        next(below)
        for member in below:
            yield look(member, "zygote" if _is_first_in_zygotes_namespace(member) else "jail")


def _is_first_in_zygotes_namespace(pid: int) -> bool:
    """With a PID namespace the zygote is two processes, of which the inner one is its namespace's first."""
    numbers: list[str] = []
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
    return len(numbers) > 1 and numbers[-1] == "1" and len(numbers) == _depth_of_self() + 1


def _depth_of_self() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return len(line.split()) - 1
    return 1


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def adopted(own: Collection[int]) -> list[Process]:
    """Live children of this process, a subreaper, that it did not start: they have lost the parent that did.

    Those that are dead are reaped on the way.
    """
    found = []
    for pid in processes.children_of(os.getpid()):
        if pid in own:
            continue
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        process = look(pid)
        if process is not None:
            found.append(process)
    return found
