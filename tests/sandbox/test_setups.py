"""The battery of cheats in every set-up of jails, as whole runs of their own: for root and for an ordinary user."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.test_battery import ORDINARY_UID, ROOT, as_root

WITHIN_S = 600


@as_root
@pytest.mark.soak
@pytest.mark.parametrize(("setup", "uid"), [("plain", None), ("jailed", ORDINARY_UID), ("plain", ORDINARY_UID)])
def test_no_cheat_gains_anything(setup: str, uid: int | None, tmp_path: Path) -> None:
    tests = ["tests/sandbox/integrity", "-k", "jailed", "-q", "-p", "no:cacheprovider", "-m", "not soak"]
    command = [sys.executable, "-m", "pytest", *tests]
    if uid is not None:
        command = [sys.executable, "-m", "tests.sandbox.as_user", str(uid), *command]
    environment = {**os.environ, "BITLANE_TEST_SETUP": setup}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 200, done.stdout[-1000:]
