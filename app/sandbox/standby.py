"""Jails that are made before they are needed: forked, locked down, with their device open, waiting for one call."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from app.sandbox import processes, scratch, wire
from app.sandbox.request import SandboxLost
from app.sandbox.zygote_link import ZygoteLink

_FORK_S = 30.0
_CONFINED_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a jail opens: a torch device other than the CPU, and the share of its memory that torch may allocate."""

    name: str
    memory_share: float


@dataclass(kw_only=True, slots=True)
class Standby:
    """One jail before its call. ``directory`` is its scratch where it cannot mount one; it goes with ``discard``.

    ``pid`` is its number in our own namespace once it is forked, 0 if it has gone.
    """

    number: int
    link: ZygoteLink
    channel: socket.socket
    logs: list[int]
    scratch_bytes: int
    directory: str | None
    pidfd: int = -1
    pid: int = 0

    @property
    def usable(self) -> bool:
        """Whether it has not died while it waited. Raises ``SandboxLost`` if the zygote has."""
        return not self.link.said("exited", self.number) and not self.link.said("failed", self.number)

    def await_forked(self) -> None:
        """Raises ``SandboxLost``."""
        if self.pidfd < 0:
            told, (self.pidfd,) = self.link.answer("forked", self.number, _FORK_S)
            self.pid = processes.pid_of(self.pidfd) or self._looked_up(told["pid"]) or 0

    def _looked_up(self, number: int) -> int | None:
        """Its number here, by the one that it has where the zygote lives."""
        depth = int("pid_namespace" in self.link.layers)
        return processes.pid_below(self.link.pid, number, depth=depth)

    def await_confined(self) -> None:
        """Return once it is locked down, without taking its word for it yet. Raises ``SandboxLost``."""
        self.await_forked()
        if not wire.readable(self.channel.fileno(), self.pidfd, within_s=_CONFINED_S):
            raise SandboxLost(f"a jail was not confined within {_CONFINED_S:g} s")

    def discard(self) -> None:
        """Close what is held here; the process ends with its socket."""
        self.channel.close()
        for fd in self.logs:
            os.close(fd)
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.link.forget(self.number)
        self.remove_directory()

    def remove_directory(self) -> None:
        if self.directory is not None:
            scratch.remove(self.directory)


def order(
    link: ZygoteLink, number: int, *, scratch_bytes: int, scratch_root: str | None, device: Device | None
) -> Standby:
    """Have the zygote make a jail, without waiting for it. Raises ``SandboxLost``."""
    try:
        made, given = _made(link, number, scratch_bytes, scratch_root)
    except OSError as error:
        raise SandboxLost(f"a jail could not be made: {error}") from error
    message = {"op": "fork", "number": number, "directory": made.directory or "/", "scratch_bytes": scratch_bytes}
    try:
        link.ask(message, given)
        if device is not None:
            _order_device(made.channel, device)
    except BaseException:
        made.discard()
        raise
    finally:
        for fd in given:
            os.close(fd)
    return made


def _made(
    link: ZygoteLink, number: int, scratch_bytes: int, scratch_root: str | None
) -> tuple[Standby, tuple[int, int, int]]:
    """A jail's ends here, and those that it is to have: its socket and its two log pipes. Raises ``OSError``."""
    with ExitStack() as undo:
        directory = None
        if "scratch_tmpfs" not in link.layers:
            directory = scratch.make(scratch_root)
            undo.callback(scratch.remove, directory)
        ours, theirs = wire.pair()
        undo.callback(ours.close)
        undo.callback(theirs.close)
        pipes = []
        for _ in range(2):
            pipes.append(os.pipe2(os.O_CLOEXEC))
            for fd in pipes[-1]:
                undo.callback(os.close, fd)
            os.set_blocking(pipes[-1][0], False)
        undo.pop_all()
    (out, out_end), (err, err_end) = pipes
    made = Standby(
        number=number, link=link, channel=ours, logs=[out, err], scratch_bytes=scratch_bytes, directory=directory
    )
    return made, (theirs.detach(), out_end, err_end)


def _order_device(channel: socket.socket, device: Device) -> None:
    message = {"op": "open", "device": device.name, "device_memory_share": device.memory_share}
    try:
        wire.send(channel, message)
    except wire.Closed:
        raise SandboxLost("a jail ended before it was used") from None
