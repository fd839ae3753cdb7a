"""A PID namespace for one jail, with a first process of ours that does nothing.

The kernel shields the first process of a PID namespace from signals of its own making, and ends the whole namespace
with it. With our process in that place a submission is an ordinary process: a signal that it sends to itself has its
effect and shows in its wait status. Ending our process ends whatever the jail has forked or detached. A nest is made
before it is needed, since forking it takes as long as forking the jail.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import NoReturn

from app.sandbox import processes, syscalls


@dataclass(frozen=True, slots=True)
class Nest:
    """``fd`` is the namespace; ``pid`` its first process, a child of this one, in this process's own numbers."""

    pid: int
    fd: int

    def enter(self) -> None:
        """Have the next child of this process be born here."""
        syscalls.setns(self.fd, syscalls.CLONE_NEWPID)

    def end(self) -> None:
        """Kill whatever lives here; nothing of it is left when this returns."""
        os.close(self.fd)
        _end(self.pid)


def make(own_pids: int) -> Nest:
    """A new nest; afterwards children are born in this process's own namespace (``own_pids``) again.

    Raises ``OSError``.
    """
    syscalls.unshare(syscalls.CLONE_NEWPID)
    try:
        pid = os.fork()
        if pid == 0:
            _rest()
        try:
            return Nest(pid, os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            _end(pid)
            raise
    finally:
        syscalls.setns(own_pids, syscalls.CLONE_NEWPID)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _rest() -> NoReturn:
    """Hold nothing, show nothing to those who share the namespace, reap what is orphaned here, wait to be killed."""
    try:
        syscalls.set_parent_death_signal(signal.SIGKILL)
        syscalls.set_undumpable()
        processes.close_from(0)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            signal.pause()
    finally:
        os._exit(1)
