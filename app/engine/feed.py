"""Wakes those who wait for a job to change. It carries no state: whoever is woken reads the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Feed:
    def __init__(self) -> None:
        self._bells: dict[str, set[asyncio.Event]] = {}

    def changed(self, job_id: str) -> None:
        for bell in self._bells.get(job_id, ()):
            bell.set()

    def wake_all(self) -> None:
        for bells in self._bells.values():
            for bell in bells:
                bell.set()

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at the job's next change. Enter before reading the job, or a change can be missed."""
        bell = asyncio.Event()
        self._bells.setdefault(job_id, set()).add(bell)
        try:
            yield bell
        finally:
            bells = self._bells[job_id]
            bells.discard(bell)
            if not bells:
                del self._bells[job_id]
