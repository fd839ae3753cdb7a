"""Two experiments at once, on two devices: both are queued, measured, stored and delivered.

Starts one Bitlane as the orchestrator that receives results and one as the worker that makes them, submits a CPU
experiment and one second later a GPU experiment, watches both, and checks what came of them. Run it with ``make demo``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

CODEC = Path(__file__).resolve().parent / "transform_codec"
QUALITIES = (8, 16, 32, 64)
READY_WITHIN_S, ENDED_WITHIN_S, DELIVERED_WITHIN_S, STOPPED_WITHIN_S = 45.0, 80.0, 15.0, 8.0
HEAD_START_S = 1.0
POLL_S = 0.2
LOG_LINES = 25
TERMINAL = ("succeeded", "failed", "cancelled")

Json = dict[str, Any]


class DemoFailed(Exception):
    """What did not go as it should, in one sentence."""


@dataclass(kw_only=True)
class Service:
    """One Bitlane that the demo started. ``data`` is its folder, ``log`` what it printed."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    data: Path
    log: Path

    def wait_ready(self, client: httpx.Client) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise DemoFailed(f"The {self.name} ended with code {self.process.returncode} before it was ready.")
            with contextlib.suppress(httpx.TransportError):
                if client.get(f"{self.url}/readyz").status_code == 200:
                    return
            time.sleep(POLL_S / 2)
        raise DemoFailed(f"The {self.name} was not ready within {READY_WITHIN_S:.0f} s.")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(lines) or "(it printed nothing)"


@dataclass(kw_only=True)
class Experiment:
    """One of the two, and what the worker last said about it."""

    experiment_id: str
    lane: str
    url: str = ""
    job: Json = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.job["state"] in TERMINAL

    @property
    def fraction(self) -> float:
        progress = self.job.get("progress")
        if self.job["state"] == "succeeded":
            return 1.0
        return progress["done"] / progress["total"] if progress and progress["total"] else 0.0

    @property
    def doing(self) -> str:
        progress = self.job.get("progress")
        if self.job["state"] != "running" or not progress:
            return str(self.job["state"])
        point = progress.get("rate_point")
        quality = "" if point is None else f", quality {QUALITIES[point]}"
        return f"{progress['stage']}{quality} ({progress['done']}/{progress['total']})"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 110, highlight=False)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="bitlane-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    services: list[Service] = []
    began = time.monotonic()
    code = 1
    try:
        perform(console, folder, services, options.frames)
        code = 0
    except KeyboardInterrupt:
        console.print("Interrupted.")
        code = 130
    except (DemoFailed, httpx.HTTPError) as failure:
        reason = failure if isinstance(failure, DemoFailed) else f"A service did not answer as it should ({failure})."
        for service in services:
            console.rule(f"the last lines of the {service.name}")
            console.print(service.tail(), markup=False)
        console.print(f"The demo failed: {reason}", markup=False, soft_wrap=True)
    finally:
        for service in reversed(services):
            service.stop()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if code == 0:
        kept = f" Everything is kept in {folder}." if options.keep else " What was stored is removed (see --keep)."
        console.print(f"The demo took {time.monotonic() - began:.1f} s.{kept}")
    return code


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Two experiments at once, measured, stored and delivered.")
    parser.add_argument("--frames", type=int, default=100, help="frames of each experiment (default 100)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the services' data and logs here")
    return parser.parse_args(arguments)


def perform(console: Console, folder: Path, services: list[Service], frames: int) -> None:
    """The whole demo; raises ``DemoFailed`` at the first thing that is not as it should be."""
    with httpx.Client(timeout=10.0, trust_env=False) as client:
        worker, orchestrator = start_both(console, client, folder, services)
        await_lanes(console, client, worker)
        cpu, gpu = Experiment(experiment_id="demo-cpu", lane="cpu"), Experiment(experiment_id="demo-gpu", lane="gpu")
        submit(console, client, worker, cpu, frames)
        time.sleep(HEAD_START_S)
        submit(console, client, worker, gpu, frames)
        follow(console, client, (cpu, gpu))
        overlap_s = overlap_of(cpu, gpu)
        for experiment in (cpu, gpu):
            await_delivery(client, orchestrator, experiment)
            show(console, worker, orchestrator, experiment)
        console.print(
            f"\nBoth ran at the same time for {overlap_s:.1f} s:"
            f" {cpu.experiment_id} from {span(cpu)}, {gpu.experiment_id} from {span(gpu)} (UTC).",
            soft_wrap=True,
        )
        console.print("Both were measured, stored by the worker and delivered to the orchestrator.")


# --- the services --------------------------------------------------------------------------------------------------


def start_both(
    console: Console, client: httpx.Client, folder: Path, services: list[Service]
) -> tuple[Service, Service]:
    orchestrator = start("orchestrator", folder, lanes="none")
    services.append(orchestrator)
    worker = start("worker", folder, lanes=lanes(), orchestrator=orchestrator.url)
    services.append(worker)
    for service in services:
        service.wait_ready(client)
        console.print(f"The {service.name} is ready at {service.url} (process {service.process.pid}).")
    return worker, orchestrator


def await_lanes(console: Console, client: httpx.Client, worker: Service) -> None:
    """Jobs are taken before that too, they only wait; here the first one is to run when the second one comes."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        found = client.get(f"{worker.url}/lanes").raise_for_status().json()["lanes"]
        for lane in found:
            if lane["state"] == "failed":
                raise DemoFailed(f"The lane {lane['name']} does not come up: {lane['reason']}")
        if all(lane["state"] == "idle" for lane in found):
            names = ", ".join(f"{lane['name']} on {lane['device']} ({lane['device_name']})" for lane in found)
            console.print(f"The lanes are warm: {names}.")
            return
        time.sleep(POLL_S)
    raise DemoFailed(f"The lanes were not warm within {READY_WITHIN_S:.0f} s.")


def lanes() -> str:
    """A CPU lane and a GPU lane; without a GPU that torch can use the latter stands on the CPU and says so."""
    usable = Path("/dev/nvidia0").exists() and torch_finds_cuda()
    return "cpu=cpu*1,gpu=cuda:0*1" if usable else "cpu=cpu*1,gpu=cpu*1"


def torch_finds_cuda() -> bool:
    """Asked in a process of its own: torch takes seconds to import, and a CPU build does not see the device."""
    program = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False).returncode == 0


def start(name: str, folder: Path, *, lanes: str, orchestrator: str | None = None) -> Service:
    data, log, port = folder / name, folder / f"{name}.log", free_port()
    command = [str(Path(sys.executable).with_name("bitlane")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--data", str(data), "--lanes", lanes, "--store", "sqlite"]
    if orchestrator:
        command += ["--orchestrator", orchestrator]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BITLANE_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a Ctrl-C reaches the demo alone, which then stops them
        )
    return Service(name=name, process=process, url=f"http://127.0.0.1:{port}", data=data, log=log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the experiments -----------------------------------------------------------------------------------------------


def submit(console: Console, client: httpx.Client, worker: Service, experiment: Experiment, frames: int) -> None:
    body = {
        "experiment_id": experiment.experiment_id,
        "encoder": (CODEC / "encoder.py").read_text(),
        "decoder": (CODEC / "decoder.py").read_text(),
        "device": experiment.lane,
        "suite": "demo",
        "clips": ["bbb"],
        "frames": {"start": 0, "count": frames},
        "rate_points": [{"quality": quality} for quality in QUALITIES],
    }
    began = time.perf_counter()
    answer = client.post(f"{worker.url}/jobs", json=body)
    took_ms = 1000 * (time.perf_counter() - began)
    if answer.status_code != 202:
        raise DemoFailed(f"{experiment.experiment_id} got {answer.status_code} instead of 202: {answer.text[:500]}")
    experiment.job = answer.json()
    experiment.url = f"{worker.url}/jobs/{experiment.job['id']}"
    console.print(
        f"Submitted {experiment.experiment_id} for lane {experiment.lane}: 202 in {took_ms:.0f} ms,"
        f" job {experiment.job['id']}, {experiment.job['state']}."
    )


def follow(console: Console, client: httpx.Client, experiments: Sequence[Experiment]) -> None:
    """Watch until both have ended; raises ``DemoFailed`` unless both succeeded."""
    deadline = time.monotonic() + ENDED_WITHIN_S
    with display(console, experiments) as refresh:
        while not all(experiment.ended for experiment in experiments):
            if time.monotonic() > deadline:
                states = ", ".join(f"{e.experiment_id} is {e.doing}" for e in experiments)
                raise DemoFailed(f"The experiments did not end within {ENDED_WITHIN_S:.0f} s: {states}.")
            time.sleep(POLL_S)
            for experiment in experiments:
                experiment.job = client.get(experiment.url).raise_for_status().json()
            refresh()
    for experiment in experiments:
        if experiment.job["state"] != "succeeded":
            error = experiment.job.get("error") or {}
            message = error.get("message", "no reason was given")
            raise DemoFailed(f"{experiment.experiment_id} ended {experiment.job['state']}: {message}")


@contextlib.contextmanager
def display(console: Console, experiments: Sequence[Experiment]) -> Iterator[Any]:
    """Side by side: bars that move on a terminal, else a line whenever something changed."""
    if console.is_terminal:
        with Live(bars(experiments), console=console, refresh_per_second=8) as live:
            yield lambda: live.update(bars(experiments))
        return
    said = ""

    def tell() -> None:
        nonlocal said
        line = "   ".join(f"{e.lane}: {100 * e.fraction:3.0f} % {e.doing:<30}" for e in experiments).rstrip()
        if line != said:
            console.print(line, markup=False)
            said = line

    yield tell


def bars(experiments: Sequence[Experiment]) -> Group:
    table = Table.grid(padding=(0, 2))
    for experiment in experiments:
        bar = ProgressBar(total=1.0, completed=experiment.fraction, width=40)
        table.add_row(experiment.experiment_id, bar, f"{100 * experiment.fraction:3.0f} %", experiment.doing)
    return Group(table)


# --- what came of them ---------------------------------------------------------------------------------------------


def overlap_of(first: Experiment, second: Experiment) -> float:
    """Seconds during which both ran, by the service's own times; raises ``DemoFailed`` if there were none."""
    starts = [moment(e.job["started_at"]) for e in (first, second)]
    ends = [moment(e.job["finished_at"]) for e in (first, second)]
    shared_s = (min(ends) - max(starts)).total_seconds()
    if shared_s <= 0:
        raise DemoFailed(
            f"The experiments did not overlap: {first.experiment_id} ran from {span(first)},"
            f" {second.experiment_id} from {span(second)}."
        )
    return shared_s


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def span(experiment: Experiment) -> str:
    start, end = (moment(experiment.job[key]).strftime("%H:%M:%S.%f")[:-3] for key in ("started_at", "finished_at"))
    return f"{start} to {end}"


def await_delivery(client: httpx.Client, orchestrator: Service, experiment: Experiment) -> None:
    """Wait until the worker says that it delivered and the orchestrator shows the result."""
    deadline = time.monotonic() + DELIVERED_WITHIN_S
    name, status, delivery = experiment.experiment_id, "nothing", None
    while time.monotonic() < deadline:
        experiment.job = client.get(experiment.url).raise_for_status().json()
        delivery = (experiment.job.get("delivery") or {}).get("state")
        answer = client.get(f"{orchestrator.url}/experiment/{name}/status")
        result = answer.json() if answer.status_code == 200 else {}
        status = result.get("status", f"HTTP {answer.status_code}")
        listed = client.get(f"{orchestrator.url}/experiments").raise_for_status().json()["completed_experiments"]
        arrived = status == "completed" and result.get("job_id") == experiment.job["id"] and name in listed
        if delivery == "delivered" and arrived:
            return
        time.sleep(POLL_S)
    raise DemoFailed(f"{name} was not delivered: the worker says {delivery}, the orchestrator says {status}.")


def show(console: Console, worker: Service, orchestrator: Service, experiment: Experiment) -> None:
    job = experiment.job
    points = (job.get("report") or {}).get("points", [])
    if len(points) != len(QUALITIES):
        raise DemoFailed(f"{experiment.experiment_id} has {len(points)} measured points instead of {len(QUALITIES)}.")
    console.print()
    console.rule(experiment.experiment_id)
    console.print(
        f"Lane        {job['lane']}, on {job['device']} ({job['device_name']}){confession(job)}", soft_wrap=True
    )
    waited_s = (moment(job["started_at"]) - moment(job["created_at"])).total_seconds()
    ran_s = (moment(job["finished_at"]) - moment(job["started_at"])).total_seconds()
    console.print(f"Queue wait  {waited_s:.3f} s, then it ran for {ran_s:.1f} s")
    console.print(rd_table(points))
    databases = [path for path in sorted(worker.data.rglob("*")) if is_sqlite(path)]
    if not databases:
        raise DemoFailed(f"No database lies under {worker.data}.")
    console.print(f"Stored      SQLite, {', '.join(map(str, databases))}; job {job['id']}", soft_wrap=True)
    console.print(
        f"Delivered   {orchestrator.url}/experiment/{experiment.experiment_id}/status says completed"
        f" (tries: {job['delivery']['attempts']})",
        soft_wrap=True,
    )


def confession(job: Json) -> str:
    """A lane's name is no proof of its device."""
    if job["lane"] == "gpu" and job["device"].startswith("cpu"):
        return ": torch finds no GPU here, the lane named gpu stands on the CPU"
    return ""


def is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def rd_table(points: Sequence[Json]) -> Table:
    table = Table()
    for heading in ("quality", "bytes", "kbps", "PSNR YUV dB", "PSNR RGB dB", "SSIM", "enc fps", "dec fps"):
        table.add_column(heading, justify="right")
    for point in points:
        metrics = point["metrics"]
        table.add_row(
            str(point["params"]["quality"]),
            f"{point['bitstream_bytes']:,}",
            f"{point['bitrate_kbps']:.1f}",
            number(metrics.get("psnr_yuv"), 2),
            number(metrics.get("psnr_rgb"), 2),
            number(metrics.get("ssim"), 4),
            f"{point['encode_fps']:.1f}",
            f"{point['decode_fps']:.1f}",
        )
    return table


def number(value: float | None, digits: int) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
