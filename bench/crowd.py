"""A start on a store with many queued jobs of one client, and what another client's single job then meets."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import harness

from app.adapters.stores.sqlite import SqliteStore
from app.domain.job import Job, JobSpec
from app.domain.lifecycle import submitted

REPEATS = 31


async def fill(data: Path, count: int) -> None:
    """Jobs as they lie in the store after they were accepted."""
    spec = JobSpec(encoder_sha256="a" * 64, decoder_sha256="b" * 64, contract="native", body_sha256="c" * 64)
    async with SqliteStore(data, epoch=1) as store:
        for start in range(0, count, 1000):
            numbers = range(start, min(start + 1000, count))
            jobs = [
                Job(id=f"j{n:07}", experiment_id=f"e{n}", spec=spec, created_at=1.75e9 + n, owner="crowd")
                for n in numbers
            ]
            await asyncio.gather(*(store.add(submitted(replace(job))) for job in jobs))


def median_ms(ask: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        ask()
        times.append(time.perf_counter() - began)
    return harness.quantile(times, 0.5) * 1000


def measured(count: int) -> list[str]:
    # The lane is paused, so that what is measured is the queue and not the lane.
    def prepare(data: Path) -> None:
        asyncio.run(fill(data, count))
        (data / "lanes.json").write_text('{"cpu": "paused"}')

    with harness.service("cpu=cpu", prepare=prepare) as running:
        harness.wait_lanes(running)
        spec = {"clips": ["carphone"], **harness.example("null_codec")}
        position = running.submit(spec)["queue_position"]
        accept_ms = median_ms(lambda: running.submit(spec))
        last_ms = median_ms(lambda: running.get(f"/jobs/j{count - 1:07}" if count else "/livez"))
        page_ms = median_ms(lambda: running.get("/jobs?limit=50"))
        return [
            f"{count:,}",
            f"{running.ready_s:.2f}",
            f"{running.rss_bytes() / 1e6:.0f}",
            f"{accept_ms:.1f}",
            f"{last_ms:.1f}",
            f"{page_ms:.1f}",
            str(position),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="how many are queued")
    options = parser.parse_args()
    rows = [measured(count) for count in (0, options.jobs)]
    head = ["queued", "ready s", "MB", "202 ms", "GET the last, ms", "page of 50, ms", "position of another's job"]
    harness.print_table("A crowd in the queue", head, rows)


if __name__ == "__main__":
    main()
