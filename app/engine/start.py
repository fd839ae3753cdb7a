"""Starts the service in a task of its own, again and again while what it needs is away.

So the process is there and can say what it waits for; nobody has to start it once more when the store is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType

from app.domain.errors import DiskFull, PlatformError, StoreAway
from app.ports import Clock

PAUSE_S = 1.0


class Start:
    """``opened`` gives the service as a context. Entering this returns once that is entered, or waits for a dependency.

    ``waits_for`` says for what, None while the service runs; ``tell`` hears of it, ``on_fatal`` of what waiting would
    not mend.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractAsyncContextManager[None]],
        *,
        clock: Clock,
        tell: Callable[[str], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._opened = opened
        self._clock = clock
        self._tell = tell
        self._on_fatal = on_fatal
        self._running = False
        self._settled = asyncio.Event()
        self._stop = asyncio.Event()
        self.waits_for: str | None = "the service is starting"

    async def __aenter__(self) -> Start:
        self._task = asyncio.create_task(self._run(), name="service")
        settled = asyncio.create_task(self._settled.wait())
        try:
            await asyncio.wait({self._task, settled}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        finally:
            settled.cancel()
        if self._task.done():
            self._task.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._running:
            await self._task
        else:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while not await self._served():
            await self._clock.sleep(PAUSE_S)

    async def _served(self) -> bool:
        """False if it could not start for something that may pass."""
        try:
            async with self._opened():
                if self.waits_for is not None and self._settled.is_set():
                    self._tell("the service has started")
                self._running, self.waits_for = True, None
                self._settled.set()
                await self._stop.wait()
        except PlatformError as error:
            if self._running or not isinstance(error, StoreAway | DiskFull):
                self._on_fatal(error)
                raise
            if self.waits_for != str(error):
                self._tell(f"the service cannot start yet: {error}")
            self.waits_for = str(error)
            self._settled.set()
            return False
        return True
