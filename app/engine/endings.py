"""Writes down how attempts ended, however long the store is away.

An end that the store does not take at once goes to the spool, so that a kill does not lose it, and into the store when
that is back. Its attempt's number fences it out where the job has moved on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass

from app.domain.errors import IllegalTransition, NotFound, PlatformError, StaleVersion, StoreUnavailable
from app.domain.job import ErrorType, Fault, Job
from app.domain.lifecycle import AttemptEvent, Broke, Decision
from app.engine.jobs import Jobs
from app.ports import Clock, Spool, Spooled

PROMPT_S = 1.0
PAUSE_S = 1.0

_Key = tuple[str, int]


@dataclass(slots=True, eq=False)
class _End:
    """``late`` is set once the slot has gone on and the end is ours alone."""

    event: AttemptEvent
    spooled: bool = False
    late: bool = False


class Endings:
    """``damaged`` names what was found in the spool and could not be read; ``unwanted`` says of others why the
    store has no use for them."""

    def __init__(self, *, jobs: Jobs, spool: Spool, clock: Clock) -> None:
        self._jobs = jobs
        self._spool = spool
        self._clock = clock
        self._ends: dict[_Key, _End] = {}
        self._wake = asyncio.Event()
        self.damaged: tuple[str, ...] = ()
        self.unwanted: dict[_Key, str] = {}
        self.spool_error: str | None = None

    @property
    def waiting(self) -> int:
        """How many ends the store has not taken yet."""
        return sum(end.late for end in self._ends.values())

    @property
    def unsafe(self) -> int:
        """How many of them are in this process' memory alone, since the spool did not take them either."""
        return sum(end.late and not end.spooled for end in self._ends.values())

    def holds(self, job: Job) -> bool:
        """Whether the end of the job's newest attempt is known and only waits for the store."""
        return (job.id, job.attempt) in self._ends

    async def settle(self, job_id: str, event: AttemptEvent) -> Decision | None:
        """Commit the end; None if that has to wait for the store.

        Raises what ``Jobs.apply`` raises, but not that the store is away.
        """
        key = job_id, event.attempt
        end = self._ends[key] = _End(event)
        if self._jobs.watch.trouble is not None:
            await self._keep(key, end)
        try:
            decision = await self._in_time(self._jobs.apply(job_id, event))
        except (TimeoutError, StoreUnavailable):
            end.late = True
            self._wake.set()
            if not end.spooled:
                await self._keep(key, end)
            return None
        except Exception:
            await self._done(key, end)
            raise
        await self._done(key, end)
        return decision

    async def recover(self) -> None:
        """Commit what an earlier process left in the spool. What the store does not take goes on waiting.

        Raises ``StoreUnavailable`` if the spool cannot be read.
        """
        found = await self._spool.all()
        self.damaged = found.damaged
        for spooled in found.entries:
            key = spooled.job_id, spooled.event.attempt
            end = self._ends[key] = _End(spooled.event, spooled=True, late=True)
            await self._try(key, end)

    async def run(self) -> None:
        """For ever: commit what waits, each in its turn, so that one that is refused does not hold up the others."""
        while True:
            self._wake.clear()
            late = [(key, end) for key, end in self._ends.items() if end.late]
            if not late:
                await self._wake.wait()
                continue
            for key, end in late:
                if not await self._try(key, end):
                    await self._clock.sleep(PAUSE_S)

    async def close(self) -> None:
        """Put what is in memory alone to where the next start finds it. Nothing may be settled any more."""
        for key, end in [(key, end) for key, end in self._ends.items() if not end.spooled]:
            with suppress(TimeoutError, PlatformError):
                await self._in_time(self._jobs.apply(key[0], end.event))
                continue
            await self._keep(key, end)

    async def _in_time(self, applied: Coroutine[None, None, Decision]) -> Decision:
        async with asyncio.timeout(PROMPT_S):
            return await applied

    async def _try(self, key: _Key, end: _End) -> bool:
        """Whether the end need not wait any more."""
        if not end.spooled:
            await self._keep(key, end)
        try:
            await self._jobs.apply(key[0], end.event)
        except StoreUnavailable:
            return False
        except (NotFound, StaleVersion, IllegalTransition) as error:
            # Another store, one restored from a backup, or another holder: the file stays for who finds out.
            self._refuse(key, error)
            return True
        except Exception as error:  # noqa: BLE001 - what one report brings out must not hold up the others
            if isinstance(end.event, Broke) and end.event.report is None:
                self._refuse(key, error)
                return True
            message = f"the result could not be stored: {type(error).__name__}: {error}"
            fault = Fault(error_type=ErrorType.INTERNAL_ERROR, message=message)
            end.event = Broke(at=end.event.at, attempt=key[1], fault=fault)
            return False
        await self._done(key, end)
        return True

    async def _done(self, key: _Key, end: _End) -> None:
        self._ends.pop(key, None)
        if end.spooled:
            await self._forget(key)

    def _refuse(self, key: _Key, error: Exception) -> None:
        self._ends.pop(key, None)
        self.unwanted[key] = f"{type(error).__name__}: {error}"

    async def _keep(self, key: _Key, end: _End) -> None:
        try:
            await self._spool.put(Spooled(job_id=key[0], event=end.event))
        except StoreUnavailable as error:
            # The disk is full, perhaps: it stays in memory, and is tried again before each try of the store.
            self.spool_error = str(error)
            return
        self.spool_error = None
        end.spooled = True
        if key not in self._ends:
            await self._forget(key)

    async def _forget(self, key: _Key) -> None:
        # A file that stays is found at the next start, and its attempt's number fences it out.
        with suppress(StoreUnavailable):
            await self._spool.remove(*key)
