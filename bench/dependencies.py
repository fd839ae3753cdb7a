"""How soon the service answers while its store or its orchestrator is away, and while its disk takes nothing.

``/livez`` is asked every 20 ms, with a job running and submissions refused meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import harness

sys.path.insert(0, str(harness.ROOT))

from tests.contracts.faulty_proxy import FaultyProxy, always, let_through
from tests.faults import LoopThread, Orchestrator, Prober
from tests.service import SLEEPER, Bitlane, free_port, spec, wait_for

STORE_FAULTS = ("refuse", "500", "throttle", "garbage", "half reply", "slow", "hang")
MOODS = ("unreachable", "500", "429", "garbage", "cut", "slow")
CLIENTS = 4


def measured(worker: Bitlane, seconds: float) -> list[str]:
    """Quantiles of ``/livez`` and of a submission, in ms, with a job running and some clients that submit."""
    until = time.monotonic() + seconds
    with Prober(worker.url) as prober, ThreadPoolExecutor(CLIENTS) as pool:
        answers = [
            answer for of in pool.map(lambda n: list(submissions(worker, until)), range(CLIENTS)) for answer in of
        ]
    assert not prober.failures, prober.failures
    took = sorted(1000 * seconds for _, seconds in answers)
    statuses = sorted({status for status, _ in answers})
    return [
        f"{1000 * prober.quantile_s(0.5):.1f}",
        f"{1000 * prober.quantile_s(0.99):.1f}",
        f"{1000 * max(prober.took_s):.1f}",
        f"{statistics.median(took):.0f}",
        f"{took[-1]:.0f}",
        " ".join(map(str, statuses)),
    ]


def submissions(worker: Bitlane, until: float) -> Iterator[tuple[int, float]]:
    while time.monotonic() < until:
        began = time.perf_counter()
        answer = worker.http.post("/jobs", json=spec(encoder=SLEEPER, labels={"of": "bench"}))
        yield answer.status_code, time.perf_counter() - began
        time.sleep(0.2)


def back(worker: Bitlane) -> str:
    began = time.perf_counter()
    wait_for(lambda: worker.http.get("/readyz").status_code == 200, within_s=60, what="it to be ready again")
    return f"{time.perf_counter() - began:.1f}"


def store_rows(folder: Path, endpoint: str, seconds: float) -> list[list[str]]:
    rows = []
    with LoopThread() as loop:
        proxy = loop.enter(FaultyProxy(endpoint))
        env = {
            "BITLANE_DYNAMODB_ENDPOINT": proxy.endpoint,
            "BITLANE_DYNAMODB_TABLE": f"jobs-{uuid.uuid4().hex}",
            "BITLANE_DYNAMODB_CREATE": "1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        with Bitlane(folder / "store", options=("--store", "dynamodb"), env=env) as worker:
            worker.run()
            worker.submit(encoder=SLEEPER)
            rows.append(["store: well", *measured(worker, seconds), "-"])
            for fault in STORE_FAULTS:
                proxy.plan = always(fault)
                row = measured(worker, seconds)
                proxy.plan = let_through
                rows.append([f"store: {fault}", *row, back(worker)])
    return rows


def orchestrator_rows(folder: Path, seconds: float) -> list[list[str]]:
    rows = []
    with LoopThread() as loop:
        orchestrator = loop.enter(Orchestrator())
        with Bitlane(folder / "push", options=("--orchestrator", orchestrator.url)) as worker:
            worker.run()
            for mood in MOODS:
                loop.run(orchestrator.become(mood))
                for _ in range(3):
                    worker.run()
                running = worker.submit(encoder=SLEEPER, priority=10)["id"]
                row = measured(worker, seconds)
                cancel_all(worker, running)
                loop.run(orchestrator.become("well"))
                rows.append([f"orchestrator: {mood}", *row, delivered(worker)])
    return rows


def cancel_all(worker: Bitlane, running: str) -> None:
    for state in ("queued", "running"):
        for job in worker.http.get("/jobs", params={"state": state, "limit": 500}).json()["jobs"]:
            worker.http.post(f"/jobs/{job['id']}/cancel")
    wait_for(lambda: worker.job(running)["state"] == "cancelled", within_s=30, what="the job to end")


def delivered(worker: Bitlane) -> str:
    """Seconds until nothing waits to be delivered any more."""

    def waiting() -> int:
        return int(worker.http.get("/readyz?verbose").json()["checks"]["delivery"]["waiting"])

    began, most = time.perf_counter(), waiting()
    wait_for(lambda: waiting() == 0, within_s=120, what="all deliveries")
    return f"{time.perf_counter() - began:.1f} ({most} waited)"


def disk_rows(folder: Path, seconds: float) -> list[list[str]]:
    disk = folder / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk]).returncode == 0
    )
    if not mounted:
        return []
    try:
        with Bitlane(disk / "data", env={"BITLANE_DISK_RESERVE_BYTES": "1048576"}) as worker:
            worker.run()
            worker.submit(encoder=SLEEPER)
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={disk / 'fill'}", "bs=1M"], stderr=subprocess.DEVNULL, check=False
            )
            row = measured(worker, seconds)
            (disk / "fill").unlink()
            return [["disk: full", *row, back(worker)]]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@contextmanager
def dynalite(folder: Path) -> Iterator[str]:
    port = free_port()
    options = ["--createTableMs", "0", "--deleteTableMs", "0", "--updateTableMs", "0"]
    command = ["node", str(harness.ROOT / "node_modules/dynalite/cli.js"), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--path", str(folder / "dynalite"), *options], stdout=subprocess.DEVNULL)
    try:
        time.sleep(2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each fault lasts")
    options = parser.parse_args()
    heads = ("fault", "/livez p50 ms", "p99", "worst", "POST p50 ms", "worst", "status", "well again after s")
    parts: list[Callable[[Path], list[list[str]]]] = [
        lambda folder: orchestrator_rows(folder, options.seconds),
        lambda folder: disk_rows(folder, options.seconds),
    ]
    with tempfile.TemporaryDirectory(prefix="bitlane-bench-") as name:
        folder = Path(name)
        with dynalite(folder) as endpoint:
            rows = store_rows(folder, endpoint, options.seconds)
        for part in parts:
            rows += part(folder)
    harness.print_table(f"Dependencies away, {options.seconds:g} s each, {CLIENTS} clients submitting", heads, rows)


if __name__ == "__main__":
    main()
