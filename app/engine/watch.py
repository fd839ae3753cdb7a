"""What is known of the store from how it answered last, and a bound on how long anybody is kept waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from app.domain.errors import BitlaneError, StoreAway, StoreUnavailable
from app.domain.job import Job
from app.ports import Clock, JobFilter, Page, Store

# Those who submit or look hear within this that the store is slow. What has happened is written down more patiently.
ANSWER_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """``since`` is when the first of the failures in a row came, ``last_error`` is the newest."""

    since: float
    last_error: str


class Watch:
    """``trouble`` is None while the store answers; ``answer_s`` bounds the wait where nothing else is said."""

    def __init__(self, clock: Clock, *, answer_s: float = ANSWER_S) -> None:
        self._clock = clock
        self.answer_s = answer_s
        self.trouble: Trouble | None = None

    def failed(self, error: StoreUnavailable) -> None:
        since = self._clock.now() if self.trouble is None else self.trouble.since
        self.trouble = Trouble(since=since, last_error=str(error))

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Learn from how what is done in it ends."""
        try:
            yield
        except StoreUnavailable as error:
            self.failed(error)
            raise
        except BitlaneError:
            self.trouble = None  # a refusal is an answer
            raise
        self.trouble = None

    @asynccontextmanager
    async def within(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Raises ``StoreAway`` if what is done in it takes longer; whether the store carried it out is open then."""
        seconds = self.answer_s if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            late = StoreAway(f"the store has not answered within {seconds:g} s")
            self.failed(late)
            raise late from None


class WatchedStore:
    """The port ``Store``: that store, watched."""

    def __init__(self, store: Store, watch: Watch) -> None:
        self._store = store
        self._noting = watch.noting

    async def add(self, job: Job) -> Job:
        with self._noting():
            return await self._store.add(job)

    async def commit(self, job: Job) -> Job:
        with self._noting():
            return await self._store.commit(job)

    async def get(self, job_id: str) -> Job | None:
        with self._noting():
            return await self._store.get(job_id)

    async def newest(self, experiment_id: str, owner: str = "local") -> Job | None:
        with self._noting():
            return await self._store.newest(experiment_id, owner)

    async def page(self, wanted: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        with self._noting():
            return await self._store.page(wanted, limit=limit, cursor=cursor)

    async def unfinished(self) -> AsyncIterator[Job]:
        with self._noting():
            async for job in self._store.unfinished():
                yield job
