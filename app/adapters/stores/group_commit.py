"""One thread that writes to a SQLite file: all writes that wait share one transaction, and so one sync to disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from app.domain.errors import DiskFull, StoreUnavailable

MAX_BATCH = 256
# The second is the write-ahead log's index, which grows as a file of its own.
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Write:
    step: Step[Any]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class GroupCommit:
    """Runs steps on one connection, in order. A step is one statement, so that it is carried out wholly or not at all.

    A step that raises fails alone. An error of the database fails the whole batch, of which nothing is kept then.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._closed = False
        self._thread = Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def do(self, step: Step[T]) -> T:
        """What the step returned, once its transaction is on the disk. Raises ``StoreUnavailable``."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Write(step=step, done=done, loop=loop))
        return await done

    async def close(self) -> None:
        """Write what waits, then close the connection."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._connection.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._gather(first)
            _report(batch, self._transact(batch))
            if last:
                return

    def _gather(self, first: _Write) -> tuple[list[_Write], bool]:
        batch = [first]
        with suppress(Empty):
            while len(batch) < MAX_BATCH:
                write = self._queue.get_nowait()
                if write is None:
                    return batch, True
                batch.append(write)
        return batch, False

    def _transact(self, batch: list[_Write]) -> list[tuple[Any, Exception | None]]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._outcome(write.step) for write in batch]
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            return [(None, unavailable(error))] * len(batch)
        return outcomes

    def _outcome(self, step: Step[Any]) -> tuple[Any, Exception | None]:
        try:
            return step(self._connection), None
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - it is handed to the one that asked; this thread serves the others too
            return None, error


def unavailable(error: sqlite3.Error) -> StoreUnavailable:
    """The error of ours for one of the database's; a connection that had no room is good again once there is some."""
    if getattr(error, "sqlite_errorcode", None) in _NO_ROOM:
        return DiskFull(f"the database has no room: {error}")
    return StoreUnavailable(f"the database does not answer: {error}")


def _report(batch: list[_Write], outcomes: list[tuple[Any, Exception | None]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Write, Any, Exception | None]]] = {}
    for write, (value, error) in zip(batch, outcomes, strict=True):
        by_loop.setdefault(write.loop, []).append((write, value, error))
    for loop, settled in by_loop.items():
        # A loop that was closed meanwhile has nobody left who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, settled)


def _settle(settled: list[tuple[_Write, Any, Exception | None]]) -> None:
    for write, value, error in settled:
        if write.done.done():
            continue
        if error is None:
            write.done.set_result(value)
        else:
            write.done.set_exception(error)
