"""Who may write: a lock on ``bitlane.lock`` under the data folder, and the lease that is nothing but this lock.

The kernel holds the lock for as long as the process lives, so it is free the moment that the process is killed. What is
written in the file only names the holder, and the epoch that the next one goes beyond.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.adapters.files import refusal
from app.domain.errors import StoreHeld
from app.ports import Clock, Holder

FILE_NAME = "bitlane.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenure:
    """One holder's time with the store. ``heartbeat_at`` is the holder's own clock, ``beats`` counts the renewals."""

    holder: Holder
    epoch: int
    heartbeat_at: float
    beats: int = 0
    released: bool = False

    def beat(self, now: float) -> Tenure:
        return replace(self, heartbeat_at=now, beats=self.beats + 1)

    def refusal(self, now: float) -> StoreHeld:
        """The error for one that wants the store meanwhile."""
        who, at = self.holder, datetime.fromtimestamp(self.heartbeat_at, UTC)
        return StoreHeld(
            f"the store is held by {who.worker_id} (host {who.host}, process {who.pid}, data folder {who.data});"
            f" its last heartbeat was {now - self.heartbeat_at:.0f} s ago, at {at:%Y-%m-%dT%H:%M:%SZ}"
        )


_TENURE = TypeAdapter(Tenure)


def dump_tenure(tenure: Tenure) -> str:
    return _TENURE.dump_json(tenure).decode()


def next_epoch(before: int, now: float) -> int:
    """The epoch after ``before``, which is 0 where nothing tells of an earlier holder.

    The clock keeps epochs growing where the lease was deleted, or the store was restored without it: an epoch below
    those that are written in the jobs would have every commit refused.
    """
    return max(before + 1, int(now))


def load_tenure(text: str | bytes) -> Tenure | None:
    """None for what is not a tenure: an empty file, or one that a crash left half-written."""
    try:
        return _TENURE.validate_json(text)
    except ValidationError:
        return None


class FileLock:
    """The lock and the text in its file. Every method blocks for as long as a disk does."""

    def __init__(self, data: Path) -> None:
        self.path = data / FILE_NAME
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether the lock is ours now; False if another process, or another lock of this one, has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def read(self) -> Tenure | None:
        try:
            return load_tenure(self.path.read_bytes())
        except FileNotFoundError:
            return None

    def write(self, tenure: Tenure) -> None:
        """Durable when it returns. Only for who has the lock."""
        if self._descriptor is not None:
            text = dump_tenure(tenure).encode()
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))
            os.fsync(self._descriptor)

    def holds(self) -> bool:
        """Whether the lock is ours and still on the file that others would lock."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class FileLease:
    """The port ``Lease`` for a store that lives in one data folder."""

    def __init__(self, data: Path, clock: Clock) -> None:
        self._lock = FileLock(data)
        self._clock = clock
        self._tenure: Tenure | None = None

    async def acquire(self, holder: Holder) -> int:
        return await asyncio.to_thread(self._acquire, holder)

    async def renew(self) -> None:
        await asyncio.to_thread(self._renew)

    async def release(self) -> None:
        await asyncio.to_thread(self._release)

    def _acquire(self, holder: Holder) -> int:
        now = self._clock.now()
        try:
            if not self._lock.take():
                raise _refusal(self._lock, now)
            before = self._lock.read()
            epoch = next_epoch(before.epoch if before else 0, now)
            self._tenure = Tenure(holder=holder, epoch=epoch, heartbeat_at=now)
            self._lock.write(self._tenure)
        except OSError as error:
            self._lock.drop()
            advice = "make it a file that this user may write, or name another data folder"
            raise refusal(error, f"{self._lock.path} cannot be locked ({advice})") from error
        return epoch

    def _renew(self) -> None:
        now = self._clock.now()
        if self._tenure is None or not self._lock.holds():
            raise _refusal(self._lock, now)
        self._tenure = self._tenure.beat(now)
        try:
            self._lock.write(self._tenure)
        except OSError as error:
            raise refusal(error, f"{self._lock.path} cannot be written") from error

    def _release(self) -> None:
        if self._tenure is not None and self._lock.holds():
            with suppress(OSError):
                self._lock.write(replace(self._tenure, released=True))
        self._tenure = None
        self._lock.drop()


def _refusal(lock: FileLock, now: float) -> StoreHeld:
    tenure = lock.read()
    if tenure is None:
        return StoreHeld(f"the store is not held by this service: {lock.path} names no holder")
    return tenure.refusal(now)
