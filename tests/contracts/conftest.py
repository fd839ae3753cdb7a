from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from store_backends import Backend, free_port, make_backend

from app.adapters.stores.dynamodb import DynamoStore
from app.adapters.stores.sqlite import SqliteStore

REPO = Path(__file__).parents[2]
DYNALITE = REPO / "node_modules" / "dynalite" / "cli.js"
KINDS = ("sqlite", "dynamodb-moto", "dynamodb-dynalite")


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


@pytest.fixture(autouse=True)
def aws_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials that no server checks; nothing of the user's own is read."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return make_backend(request.param, request, tmp_path / "data")


@pytest.fixture(params=KINDS[1:])
def dynamo(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return make_backend(request.param, request, tmp_path / "data")


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[SqliteStore | DynamoStore]:
    async with backend.store() as opened:
        yield opened
