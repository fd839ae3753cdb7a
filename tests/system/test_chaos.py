"""Nothing is lost, doubled, stuck or left, whatever is killed and when."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DYNALITE
from tests.system.chaos import summary
from tests.system.chaos.summary import Summary

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
needs_dynalite = pytest.mark.skipif(
    shutil.which("node") is None or not DYNALITE.exists(),
    reason="dynalite needs node and `npm install` (package.json names it)",
)
STORES = ["sqlite", pytest.param("dynamodb", marks=needs_dynalite)]


def campaign(store: str, kills: int, *options: str) -> Summary:
    """In a process of its own, which takes in whatever loses its parent."""
    command = [sys.executable, "-m", "tests.system.chaos", "--store", store, "--kills", str(kills), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = Summary(**json.loads(done.stdout))
    assert not found.problems, "\n".join([done.stderr, *found.problems])
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize("store", STORES)
def test_nothing_is_lost(store: str) -> None:
    found = campaign(store, 5)
    assert found.killed == 5
    assert found.accepted and found.pushes >= found.accepted
    assert (found.lost, found.double, found.stuck, found.wrong, found.left_behind) == (0, 0, 0, 0, 0)


@pytest.mark.soak
@pytest.mark.parametrize(("store", "kills"), [("sqlite", 350), pytest.param("dynamodb", 150, marks=needs_dynalite)])
def test_nothing_is_lost_in_500_kills(store: str, kills: int) -> None:
    """Writes the figures into soak.json and README."""
    assert campaign(store, kills, "--keep").killed == kills


def test_readmes_table_is_what_was_seen() -> None:
    table = summary.README.read_text().split(summary.BEGIN)[1].split(summary.END)[0].strip()
    kept = summary.load()
    assert table == summary.table(kept)
    assert set(kept) == {"sqlite", "dynamodb"} and sum(run.killed for run in kept.values()) >= 500
