"""A CUDA lane through the service: when it is ready, the null experiment, a codec on CPU and on CUDA, device memory."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
from null_job import run_one

QUALITIES = (8, 16, 32, 64)
# Asked in a process of its own: one that has opened CUDA could not start a service that must not have.
PROBE = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"


def gpu_name() -> str:
    """The first CUDA device's name, empty without one."""
    asked = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def device_memory_mib() -> int | None:
    """What is in use on device 0, None where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(asked.stdout.split()[0])


def codec_row(running: harness.Service, lane: str, run: int, frames: int) -> tuple[list[str], float]:
    """One experiment with the transform codec: a table's row, and its encode and decode seconds together."""
    before = device_memory_mib()
    spec = {
        "experiment_id": f"{lane}-{run}",
        "device": lane,
        "clips": ["bbb"],
        "frames": {"start": 0, "count": frames},
        "rate_points": [{"quality": quality} for quality in QUALITIES],
        **harness.example("transform_codec"),
    }
    job = running.finish(running.submit(spec)["id"])
    after = device_memory_mib()
    points = job["report"]["points"]
    encode_s, decode_s = (harness.quantile([point[key] for point in points], 0.5) for key in ("encode_s", "decode_s"))
    peak = max(point.get("peak_device_memory_bytes") or 0 for point in points)
    row = [
        f"{lane} ({job['device']})",
        f"{frames / encode_s:.1f}",
        f"{frames / decode_s:.1f}",
        f"{peak / 2**20:.0f}",
        "?" if before is None else str(before),
        "?" if after is None else str(after),
    ]
    return row, encode_s + decode_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=96, help="frames of bbb for the codec")
    parser.add_argument("--jobs", type=int, default=20, help="how many null experiments a lane")
    options = parser.parse_args()
    name = gpu_name()
    if not name:
        print("skipped: torch finds no CUDA device here")
        return
    with tempfile.TemporaryDirectory(prefix="bitlane-bench-") as folder:
        clip = harness.write_y4m(Path(folder, "tiny.y4m"), width=64, height=64, frames=2)
        with harness.service("cpu=cpu*1,gpu=cuda:0*1", {"tiny": [clip]}) as running:
            measure(running, name, options)


def measure(running: harness.Service, name: str, options: argparse.Namespace) -> None:
    lanes = ("cpu", "gpu")
    warm_s = harness.wait_lanes(running)
    rows = []
    for index, lane in enumerate(lanes):
        numbers = range(index * 1000, index * 1000 + options.jobs)
        totals = [run_one(running, number, device=lane)["POST to terminal"] for number in numbers]
        median = harness.quantile(totals, 0.5)
        rows.append(
            [lane, f"{warm_s[lane]:.1f}", f"{1000 * median:.1f}", f"{1000 * harness.quantile(totals, 0.9):.1f}"]
        )
    harness.print_table(
        f"Lanes on this machine ({name})", ("lane", "warm after s", "null job p50 ms", "null job p90 ms"), rows
    )
    rows, times = [], {}
    for lane in lanes:
        for run in range(2):
            row, times[lane] = codec_row(running, lane, run, options.frames)
            rows.append(row)
    harness.print_table(
        f"Transform codec, {options.frames} frames of bbb, 4 rate points (device memory in MiB)",
        ("lane", "encode fps", "decode fps", "peak of a jail", "used before", "used after"),
        rows,
    )
    print(f"CUDA needs {times['gpu'] / times['cpu']:.2f} of the CPU's time for encode and decode together.")


if __name__ == "__main__":
    main()
