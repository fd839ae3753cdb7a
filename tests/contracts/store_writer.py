"""Adds and commits jobs without end and prints ``id version`` after each acknowledgement, until it is killed."""

from __future__ import annotations

import asyncio
import itertools
import sys

from store_backends import Backend, a_job, load_backend, running


async def write(backend: Backend) -> None:
    async with backend.store() as store:
        numbers = itertools.count()

        async def one_writer() -> None:
            for n in numbers:
                job = await store.add(a_job(f"j{n:06}", experiment_id=f"e{n % 5}"))
                sys.stdout.write(f"{job.id} {job.version}\n")
                sys.stdout.flush()
                job = await store.commit(running(job))
                sys.stdout.write(f"{job.id} {job.version}\n")
                sys.stdout.flush()

        await asyncio.gather(*(one_writer() for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(write(load_backend(sys.argv[1])))
