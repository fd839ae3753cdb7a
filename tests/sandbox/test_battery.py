"""The battery of attacks on the host: every one is stopped in every set-up, and gets through where there is no jail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.battery import ablation
from tests.sandbox.battery.catalogue import ATTACKS

ROOT = Path(__file__).resolve().parents[2]
ORDINARY_UID = 1234
WITHIN_S = 400

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")


def battery(*options: str, uid: int | None = None) -> list[dict[str, Any]]:
    """A verdict for each attack."""
    command = [sys.executable, "-m", "tests.sandbox.battery", "--json", *options]
    if uid is not None:
        command = [sys.executable, "-m", "tests.sandbox.as_user", str(uid), *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    lines = done.stdout.splitlines()
    verdicts = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(verdicts) == len(lines) == len(ATTACKS), done.stdout[-2000:] + done.stderr[-2000:]
    return verdicts


def through(verdicts: list[dict[str, Any]]) -> dict[str, str]:
    return {one["name"]: one["evidence"] for one in verdicts if one["got_through"]}


def test_every_attack_gets_through_where_there_is_no_jail() -> None:
    """The positive controls. What cannot be shown on this machine says why."""
    verdicts = battery("--setup", "bare")
    failed = {one["name"]: one["evidence"] for one in verdicts if not one["got_through"] and not one["no_control"]}
    assert failed == {}
    assert len(through(verdicts)) > 300


@pytest.mark.parametrize("setup", ["jailed", "plain"])
def test_no_attack_gets_through(setup: str) -> None:
    assert through(battery("--setup", setup)) == {}


@as_root
@pytest.mark.soak
@pytest.mark.parametrize("setup", ["jailed", "plain"])
def test_no_attack_gets_through_with_an_ordinary_user(setup: str) -> None:
    assert through(battery("--setup", setup, uid=ORDINARY_UID)) == {}


def test_the_documents_table_is_what_was_measured() -> None:
    document = ablation.DOCUMENT.read_text()
    table = document.split(ablation.BEGIN)[1].split(ablation.END)[0].strip()
    assert table == ablation.written(json.loads(ablation.EXPECTED.read_text()))


@as_root
@pytest.mark.soak
@pytest.mark.parametrize("setup", ["jailed", "plain"])
def test_leaving_a_layer_off_lets_exactly_these_through(setup: str) -> None:
    """On another kernel than the table's the sets may differ: then it is written anew."""
    assert ablation.measure([setup])[setup] == json.loads(ablation.EXPECTED.read_text())[setup]
