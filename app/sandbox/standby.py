"""Jails that are made before they are needed: forked, locked down, with their device open, waiting for one call."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from app.sandbox import memory, scratch, wire
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
    """One jail before its call. ``directory`` is its scratch where it cannot mount one; it goes with ``discard``."""

    number: int
    link: ZygoteLink
    channel: socket.socket
    logs: list[int]
    scratch_bytes: int
    directory: str | None
    pidfd: int = -1

    @property
    def usable(self) -> bool:
        """Whether it has not died while it waited. Raises ``SandboxLost`` if the zygote has."""
        return not self.link.said("exited", self.number) and not self.link.said("failed", self.number)

    def await_forked(self) -> None:
        """Raises ``SandboxLost``."""
        if self.pidfd < 0:
            _, (self.pidfd,) = self.link.answer("forked", self.number, _FORK_S)

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
        directory = None if "scratch_tmpfs" in link.layers else scratch.make(scratch_root)
        ours, theirs = wire.pair()
        out, err = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise SandboxLost(f"a jail could not be made: {error}") from error
    for read, _ in (out, err):
        os.set_blocking(read, False)
    made = Standby(
        number=number,
        link=link,
        channel=ours,
        logs=[out[0], err[0]],
        scratch_bytes=scratch_bytes,
        directory=directory,
    )
    message = {"op": "fork", "number": number, "directory": directory or "/", "scratch_bytes": scratch_bytes}
    try:
        link.ask(message, [theirs.fileno(), out[1], err[1]])
        if device is not None:
            _order_device(ours, device)
    except BaseException:
        made.discard()
        raise
    finally:
        theirs.close()
        os.close(out[1])
        os.close(err[1])
    return made


def _order_device(channel: socket.socket, device: Device) -> None:
    message = {"op": "open", "device": device.name, "device_memory_share": device.memory_share}
    with memory.holding(b"", "nothing") as nothing:
        try:
            wire.send(channel, message, [nothing])
        except wire.Closed:
            raise SandboxLost("a jail ended before it was used") from None
