"""The evaluator's end of its channel to the API process: JSON lines, which can also be listened to during a call."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, NoReturn

from app.sandbox import wire

_READ_BYTES = 1 << 20


class Cancelled(BaseException):
    """The attempt was cancelled. Not an ``Exception``: nothing on the way may take it for a failure."""


class Control:
    """Implements the sandbox's ``Interrupt``. The process ends at once when the other end is gone."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = bytearray()
        self._running: tuple[str, int] | None = None

    def fileno(self) -> int:
        return self._channel.fileno()

    def send(self, message: dict[str, Any]) -> None:
        try:
            self._channel.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except OSError:
            self._orphaned()

    def receive(self) -> dict[str, Any]:
        """Wait for the next message."""
        while b"\n" not in self._buffer:
            self._read()
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        message: dict[str, Any] = json.loads(line)
        return message

    def begin(self, job_id: str, attempt: int) -> None:
        """From here to ``end``, a cancel message for this attempt counts."""
        self._running = (job_id, attempt)

    def end(self) -> None:
        self._running = None

    def check(self) -> None:
        """Look whether something has come, without waiting. Raises ``Cancelled``."""
        while wire.readable(self._channel.fileno()):
            self._read()
        while b"\n" in self._buffer:
            message = self.receive()
            if message["op"] == "cancel" and (message["job_id"], message["attempt"]) == self._running:
                raise Cancelled

    def _read(self) -> None:
        try:
            data = self._channel.recv(_READ_BYTES)
        except ConnectionResetError:
            self._orphaned()
        if not data:
            self._orphaned()
        self._buffer += data

    def _orphaned(self) -> NoReturn:
        # The kernel ends the zygote, and so every jail, with this process.
        os._exit(1)
