"""What the benchmark programs share: a service of their own, jobs through HTTP, and medians."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
BITLANE = str(Path(sys.executable).with_name("bitlane"))
READY_WITHIN_S = 120.0
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})

Json = dict[str, Any]


@dataclass(kw_only=True)
class Service:
    """A running Bitlane. ``ready_s`` is how long it took from exec to the first ready answer."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    data: Path
    log: Path
    began: float = field(default_factory=time.perf_counter)
    ready_s: float = 0.0
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=90.0, trust_env=False))

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def get(self, path: str) -> Json:
        answer: Json = self.client.get(self.url + path).raise_for_status().json()
        return answer

    def submit(self, spec: Json) -> Json:
        answer = self.client.post(f"{self.url}/jobs", json=spec)
        if answer.status_code != 202:
            raise SystemExit(f"POST /jobs answered {answer.status_code}: {answer.text[:500]}")
        job: Json = answer.json()
        return job

    def finish(self, job_id: str, within_s: float = 110.0) -> Json:
        """The job once it has succeeded; anything else ends the program."""
        deadline = time.monotonic() + within_s
        job = self.get(f"/jobs/{job_id}?wait=20")
        while job["state"] not in TERMINAL and time.monotonic() < deadline:
            job = self.get(f"/jobs/{job_id}?wait=20")
        if job["state"] != "succeeded":
            raise SystemExit(f"job {job_id} is {job['state']}: {job.get('error')}")
        return job

    def rss_bytes(self) -> int:
        """Resident memory of the service's own process (its evaluators and zygotes not counted)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(kib) * 1024


@contextlib.contextmanager
def service(
    lanes: str,
    clips: dict[str, list[Path]] | None = None,
    prepare: Callable[[Path], None] = lambda data: None,
    **options: str,
) -> Iterator[Service]:
    """Start a service on a temporary folder and a free port, with suites made of ``clips``; stop it at the end.

    ``prepare`` may put something into the data folder before the start.
    """
    with tempfile.TemporaryDirectory(prefix="bitlane-bench-") as folder:
        data, log = Path(folder, "data"), Path(folder, "log")
        prepare(data)
        for suite, files in (clips or {}).items():
            add_suite(data, suite, files)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [BITLANE, "serve", "--host", "127.0.0.1", "--port", str(port), "--data", str(data), "--lanes", lanes]
        for name, value in {"store": "sqlite", **options}.items():
            command += [f"--{name.replace('_', '-')}", value]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment()
            )
        running = Service(process=process, host="127.0.0.1", port=port, data=data, log=log)
        try:
            running.ready_s = wait_ready(running)
            yield running
        finally:
            running.client.close()
            stop(process)


def environment() -> dict[str, str]:
    """The caller's environment without its own settings for Bitlane."""
    return {k: v for k, v in os.environ.items() if not k.startswith("BITLANE_")}


def add_suite(data: Path, name: str, files: Sequence[Path]) -> None:
    command = [BITLANE, "suite", "add", name, *map(str, files), "--data", str(data)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())


def wait_ready(running: Service) -> float:
    """Seconds from its start until the service takes jobs; ends the program if it does not."""
    while time.perf_counter() - running.began < READY_WITHIN_S:
        if running.process.poll() is not None:
            raise SystemExit(f"the service ended before it was ready:\n{running.log.read_text(errors='replace')}")
        with contextlib.suppress(httpx.TransportError):
            if running.client.get(f"{running.url}/readyz").status_code == 200:
                return time.perf_counter() - running.began
        time.sleep(0.02)
    raise SystemExit(f"the service was not ready within {READY_WITHIN_S:.0f} s")


def wait_lanes(running: Service) -> dict[str, float]:
    """Seconds from the service's start until each lane was warm; ends the program if one does not come up."""
    warm_s: dict[str, float] = {}
    while time.perf_counter() - running.began < READY_WITHIN_S:
        lanes = running.get("/lanes")["lanes"]
        for lane in lanes:
            if lane["state"] == "failed":
                raise SystemExit(f"lane {lane['name']} does not come up: {lane['reason']}")
            if lane["state"] != "starting":
                warm_s.setdefault(lane["name"], time.perf_counter() - running.began)
        if len(warm_s) == len(lanes):
            return warm_s
        time.sleep(0.02)
    raise SystemExit(f"the lanes were not warm within {READY_WITHIN_S:.0f} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def example(name: str) -> Json:
    """The code fields of a submission under ``examples/``."""
    folder = ROOT / "examples" / name
    return {side: (folder / f"{side}.py").read_text() for side in ("encoder", "decoder")}


def write_y4m(path: Path, *, width: int, height: int, frames: int) -> Path:
    """A 4:2:0 clip with a gradient that moves."""
    chroma = bytes([128]) * (2 * (width // 2) * (height // 2))
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\n".encode())
        for t in range(frames):
            luma = bytes(16 + (3 * x + 2 * y + 5 * t) % 220 for y in range(height) for x in range(width))
            file.write(b"FRAME\n" + luma + chroma)
    return path


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share ``q`` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1))]


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=None if console.is_terminal else 110).print(table)
