"""Messages between supervisor, zygote and jail: one bounded JSON object a packet, with descriptors beside it.

The other end may be hostile. A receiver states how many descriptors it takes (a jail's messages: none) and gets either
a dict or ``WireError``; whatever else came along is closed.
"""

from __future__ import annotations

import array
import json
import math
import os
import select
import socket
from collections.abc import Sequence
from typing import Any

MAX_MESSAGE_BYTES = 64 * 1024


class WireError(Exception):
    """A message that is malformed, too large or carries what it must not."""


class Closed(Exception):
    """The other end is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def readable(*fds: int, within_s: float = 0.0) -> bool:
    """Whether one of them can be read, or is closed at its other end, in time. (``select`` fails from 1024 on.)"""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(math.ceil(within_s * 1000)))


def send(channel: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one packet. Raises ``Closed``, or ``WireError`` where the message is too large."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        channel.sendmsg([data], ancillary)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed from error


def receive(channel: socket.socket, descriptors: int = 0) -> tuple[dict[str, Any], list[int]]:
    """The next packet and exactly as many descriptors as asked for, close-on-exec.

    With 0 descriptors there is no room for any: the kernel drops what was sent. Raises ``WireError`` or ``Closed``.
    """
    room = socket.CMSG_SPACE(descriptors * array.array("i").itemsize) if descriptors else 0
    try:
        data, ancillary, flags, _ = channel.recvmsg(MAX_MESSAGE_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError as error:
        raise Closed from error
    received = _descriptors(ancillary)
    try:
        if not data:
            raise Closed
        if flags & socket.MSG_CTRUNC or len(received) not in (0, descriptors):
            raise WireError("unexpected descriptors beside a message")
        if flags & socket.MSG_TRUNC or len(data) > MAX_MESSAGE_BYTES:
            raise WireError(f"a message over the limit of {MAX_MESSAGE_BYTES} bytes")
        return _parse(data), received
    except (WireError, Closed):
        for fd in received:
            os.close(fd)
        raise


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        message = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise WireError("a message that is not JSON") from error
    if not isinstance(message, dict):
        raise WireError("a message that is not an object")
    return message


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def text(message: dict[str, Any], key: str, limit: int) -> str | None:
    """An optional string of a message from a jail, cut to its last ``limit`` characters. Raises ``WireError``."""
    value = message.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise WireError(f"{key} is not a string")
    cleaned = clean(value)
    return cleaned if len(cleaned) <= limit else "... " + cleaned[-limit:]


def clean(value: str) -> str:
    """Without lone surrogates, which JSON may carry and nothing else can write."""
    return value.encode("utf-8", "replace").decode()


def size(message: dict[str, Any], key: str, limit: int) -> int:
    """A whole number from 0 to ``limit``. Raises ``WireError``."""
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= limit:
        raise WireError(f"{key} is not a number of bytes up to {limit}")
    return value
