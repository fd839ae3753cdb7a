"""Acquires the lease, prints its epoch and holds it until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys

from store_backends import Backend, ManualClock, load_backend

from app.ports import Holder


async def hold(backend: Backend, now: float) -> None:
    async with backend.lease(ManualClock(now)) as lease:
        holder = Holder(worker_id="worker-0", host="host-1", data=str(backend.data), pid=os.getpid())
        sys.stdout.write(f"{await lease.acquire(holder)}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold(load_backend(sys.argv[1]), float(sys.argv[2])))
