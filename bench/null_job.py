"""From POST to a finished job for the least experiment: one 64x64 clip of 2 frames, one rate point, the null codec."""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import datetime
from pathlib import Path

import harness

WARM_UP = 5


def spec(number: int, device: str) -> harness.Json:
    return {"experiment_id": f"null-{number}", "device": device, "suite": "tiny", **harness.example("null_codec")}


def run_one(running: harness.Service, number: int, device: str = "cpu") -> dict[str, float]:
    """Seconds of each stage, by the client's clock and by what the service reports."""
    began = time.perf_counter()
    job = running.submit(spec(number, device))
    accepted_s = time.perf_counter() - began
    job = running.finish(job["id"])
    total_s = time.perf_counter() - began
    created, started, finished = (
        datetime.fromisoformat(job[key]) for key in ("created_at", "started_at", "finished_at")
    )
    point = job["report"]["points"][0]
    ran_s = (finished - started).total_seconds()
    inside_s = sum(point[key] for key in ("load_s", "setup_s", "encode_s", "decode_s"))
    return {
        "POST to terminal": total_s,
        "accepted (202)": accepted_s,
        "queued": (started - created).total_seconds(),
        "run": ran_s,
        "  load code": point["load_s"],
        "  setup": point["setup_s"],
        "  encode": point["encode_s"],
        "  decode": point["decode_s"],
        "  all else (fork, check, measure, second decode)": ran_s - inside_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=60, help="how many experiments are timed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitlane-bench-") as folder:
        clip = harness.write_y4m(Path(folder, "tiny.y4m"), width=64, height=64, frames=2)
        with harness.service("cpu=cpu*1", {"tiny": [clip]}) as running:
            warm_s = harness.wait_lanes(running)["cpu"]
            for number in range(WARM_UP):
                run_one(running, number)
            runs = [run_one(running, WARM_UP + number) for number in range(options.jobs)]
    whole = harness.quantile([run["POST to terminal"] for run in runs], 0.5)
    rows = []
    for stage in runs[0]:
        values = [run[stage] for run in runs]
        median = harness.quantile(values, 0.5)
        rows.append(
            [stage, f"{1000 * median:.1f}", f"{1000 * harness.quantile(values, 0.9):.1f}", f"{median / whole:.2f}"]
        )
    title = (
        f"A null experiment, {options.jobs} times (ready after {running.ready_s:.1f} s, the lane after {warm_s:.1f} s)"
    )
    harness.print_table(title, ("stage", "p50 ms", "p90 ms", "share of p50"), rows)


if __name__ == "__main__":
    main()
