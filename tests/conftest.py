"""Servers that several folders of tests talk to."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import free_port

# Where files are shared out among processes, these come first, or one of them is what all others wait for at the end.
LONGEST = ("tests/sandbox/test_battery.py", "tests/sandbox/integrity/test_integrity.py")

REPO = Path(__file__).parents[1]
DYNALITE = REPO / "node_modules" / "dynalite" / "cli.js"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def _serve(command: list[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{command[0]} did not open its port"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    port = free_port()
    yield from _serve([str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)], port)


@pytest.fixture(scope="session")
def dynalite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    node = shutil.which("node")
    if node is None or not DYNALITE.exists():
        pytest.skip("dynalite needs node and `npm install` (package.json names it)")
    port = free_port()
    path = tmp_path_factory.mktemp("dynalite")
    quick = ["--createTableMs", "0", "--deleteTableMs", "0", "--updateTableMs", "0"]
    yield from _serve(
        [node, str(DYNALITE), "--host", "127.0.0.1", "--port", str(port), "--path", str(path), *quick], port
    )
