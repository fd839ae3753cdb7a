"""The demo is itself a test: two experiments at once, on two lanes, measured, stored and delivered."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
WITHIN_S = 120


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DEMO), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(demo: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = demo.communicate(timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        demo.terminate()
        output, _ = demo.communicate(timeout=30)
        pytest.fail(f"the demo did not end within {WITHIN_S} s:\n{output}")
    return demo.returncode, output


def assert_nothing_is_left(output: str) -> None:
    pids = re.findall(r"\(process (\d+)\)", output)
    assert len(pids) == 2, output
    assert [pid for pid in pids if Path("/proc", pid).exists()] == []


def test_both_experiments_overlap_and_arrive(tmp_path: Path) -> None:
    code, output = finish(start("--frames", "24", "--keep", str(tmp_path / "kept")))
    assert code == 0, output
    assert_nothing_is_left(output)
    assert output.count("202 in") == 2
    for lane in ("cpu", "gpu"):
        assert f"Lane        {lane}, on " in output
        assert f"/experiment/demo-{lane}/status says completed" in output
    rows = re.findall(r"│ +(8|16|32|64) │ +([\d,]+) │ +([\d.]+) │ +([\d.]+) │ +([\d.]+) │ +(0\.\d+) │", output)
    assert [row[0] for row in rows] == ["8", "16", "32", "64"] * 2, output
    for experiment in (rows[:4], rows[4:]):
        sizes = [int(row[1].replace(",", "")) for row in experiment]
        psnr_db = [float(row[3]) for row in experiment]
        assert sizes == sorted(sizes) and psnr_db == sorted(psnr_db)
        assert psnr_db[0] > 25 and psnr_db[-1] < 48
    assert re.search(r"Both ran at the same time for \d+\.\d s", output)
    assert (tmp_path / "kept" / "worker.log").exists()
    if not Path("/dev/nvidia0").exists():
        assert "the lane named gpu stands on the CPU" in output


def test_a_failure_is_one_sentence_with_the_logs() -> None:
    """No experiment has no frames: the worker refuses it, and the demo says so."""
    code, output = finish(start("--frames", "0"))
    assert code == 1
    assert "The demo failed: demo-cpu got 422 instead of 202" in output
    assert "the last lines of the worker" in output
    assert_nothing_is_left(output)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_everything(number: signal.Signals, code: int) -> None:
    demo = start("--frames", "100")
    assert demo.stdout is not None
    seen = ""
    deadline = time.monotonic() + WITHIN_S
    while "Submitted demo-cpu" not in seen and time.monotonic() < deadline:
        line = demo.stdout.readline()
        if not line:
            break
        seen += line
    demo.send_signal(number)
    ended, rest = finish(demo)
    assert ended == code, seen + rest
    assert_nothing_is_left(seen)
