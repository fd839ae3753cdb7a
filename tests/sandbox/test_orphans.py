"""The API process is killed: evaluator, zygote and jail end with it."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from pathlib import Path

from app.sandbox import processes
from tests.sandbox.jails import alive, marked
from tests.sandbox.works import write_suite

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_left_when_the_api_process_is_killed(tmp_path: Path) -> None:
    mark = f"bl{secrets.token_hex(5)}"
    write_suite(tmp_path)
    command = [sys.executable, "-m", "tests.sandbox.api_process", str(tmp_path), mark]
    api = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while len(marked(mark)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        tree = list(processes.tree_of(api.pid))
        assert len(tree) >= 4
    finally:
        api.kill()
        api.wait()
    deadline = time.monotonic() + 2
    while any(map(alive, tree)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, tree))
    assert marked(mark) == []
