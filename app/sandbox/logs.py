"""The end of what a jail prints."""

from __future__ import annotations

import os
from collections import deque

_READ_BYTES = 64 * 1024


class LogTail:
    """Keeps the last ``limit_bytes`` of what is drained from the pipes and counts the rest."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parts: deque[bytes] = deque()
        self._kept = 0
        self.total_bytes = 0

    def drain(self, fd: int) -> bool:
        """Read once without blocking; False at the end of the pipe."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return True
        self._keep(data)
        return bool(data)

    def drain_all(self, fd: int, most_bytes: int = 1024 * 1024) -> None:
        """Read what is left in a pipe whose writers are gone."""
        before = self.total_bytes
        while self.total_bytes - before < most_bytes:
            held = self.total_bytes
            if not self.drain(fd) or self.total_bytes == held:
                return

    def _keep(self, data: bytes) -> None:
        self.total_bytes += len(data)
        self._parts.append(data)
        self._kept += len(data)
        while self._parts and self._kept - len(self._parts[0]) >= self._limit:
            self._kept -= len(self._parts.popleft())

    def text(self) -> str:
        """At most ``limit_bytes``, the newest; says how much was cut before it."""
        kept = b"".join(self._parts)[-self._limit :] if self._limit else b""
        cut = self.total_bytes - len(kept)
        text = kept.decode("utf-8", "replace")
        return f"[{cut} bytes cut]\n{text}" if cut else text
