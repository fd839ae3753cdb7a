"""The lease on a DynamoDB table: one item that names the holder, and the lock in the holder's data folder."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from app.adapters.files import refusal
from app.adapters.stores.dynamo_table import KEY, DynamoTable, Item
from app.adapters.stores.lease import FileLock, Tenure, dump_tenure, load_tenure, next_epoch
from app.domain.errors import StoreHeld, StoreUnavailable
from app.ports import Clock, Holder

LEASE_KEY = "lease#holder"


class DynamoLease:
    """The port ``Lease`` for a table that several hosts can reach. Renew it at least three times in ``lease_s``.

    The lock tells for certain that the former holder of the same data folder is gone. Of a holder elsewhere only its
    heartbeats are known; since two hosts' clocks may differ, one that looks dead is watched before it is replaced.
    """

    def __init__(self, table: DynamoTable, lock: FileLock, clock: Clock, *, lease_s: float = 15.0) -> None:
        self.lease_s = lease_s
        self._table = table
        self._lock = lock
        self._clock = clock
        self._tenure: Tenure | None = None

    async def acquire(self, holder: Holder) -> int:
        await asyncio.to_thread(self._take_lock)
        try:
            epoch = await self._acquire(holder)
            await asyncio.to_thread(self._note)
        except BaseException:
            self._lock.drop()
            raise
        return epoch

    async def renew(self) -> None:
        now = self._clock.now()
        if self._tenure is None or not self._lock.holds():
            raise StoreHeld("the store is not held by this service")
        self._tenure = self._tenure.beat(now)
        # By the epoch and not by what was last written: of a heartbeat that timed out, nobody knows whether it was.
        if not await self._table.put(_item(self._tenure), (("epoch", "=", self._tenure.epoch),)):
            raise await self._refusal()

    async def release(self) -> None:
        tenure, self._tenure = self._tenure, None
        try:
            if tenure is not None:
                # Where the table is away the item stays: this host is let in at once even so, others after lease_s.
                with suppress(StoreUnavailable):
                    await self._table.put(_item(replace(tenure, released=True)), (("epoch", "=", tenure.epoch),))
        finally:
            self._lock.drop()

    async def _acquire(self, holder: Holder) -> int:
        seen = await self._table.get(LEASE_KEY)
        before = _tenure(seen)
        if before is not None and not (before.released or _same_place(before.holder, holder)):
            await self._watch(before)
        now = self._clock.now()
        epoch = next_epoch(int(seen["epoch"]) if seen else 0, now)
        tenure = Tenure(holder=holder, epoch=epoch, heartbeat_at=now)
        if not await self._table.swap(_item(tenure), seen):
            raise await self._refusal()
        self._tenure = tenure
        return epoch

    async def _watch(self, before: Tenure) -> None:
        """Return when the holder has been silent for long enough; that it still is, the swap that follows checks."""
        silent_s = self._clock.now() - before.heartbeat_at
        if abs(silent_s) < self.lease_s:
            raise before.refusal(self._clock.now())
        await self._clock.sleep(self.lease_s if silent_s < 0 else self.lease_s / 2)

    async def _refusal(self) -> StoreHeld:
        tenure = _tenure(await self._table.get(LEASE_KEY))
        return tenure.refusal(self._clock.now()) if tenure else StoreHeld("the store's lease was removed")

    def _take_lock(self) -> None:
        try:
            taken = self._lock.take()
        except OSError as error:
            raise refusal(error, f"{self._lock.path} cannot be locked") from error
        if not taken:
            tenure = self._lock.read()
            raise tenure.refusal(self._clock.now()) if tenure else StoreHeld(f"{self._lock.path} is locked")

    def _note(self) -> None:
        if self._tenure is not None:
            try:
                self._lock.write(self._tenure)
            except OSError as error:
                raise refusal(error, f"{self._lock.path} cannot be written") from error


def _item(tenure: Tenure) -> Item:
    return {KEY: LEASE_KEY, "epoch": tenure.epoch, "document": dump_tenure(tenure)}


def _tenure(item: Item | None) -> Tenure | None:
    return None if item is None else load_tenure(str(item["document"]))


def _same_place(one: Holder, other: Holder) -> bool:
    return (one.host, one.data) == (other.host, other.data)
