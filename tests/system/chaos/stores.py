"""The stores that a campaign runs on: how the service is told of them, how they are killed, what is in them."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

from app.adapters.blobs.local import LocalBlobs
from app.adapters.stores import dynamo_items, rows
from app.adapters.stores.dynamo_table import DynamoTable
from app.domain.job import Job
from tests.conftest import DYNALITE
from tests.service import free_port

TABLE = "chaos"


class Backend(Protocol):
    name: str
    options: tuple[str, ...]
    env: Mapping[str, str]

    def start(self) -> None: ...

    def kill(self) -> bool:
        """Kill the server; False for a store that has none."""

    def pid(self) -> int | None: ...

    def jobs(self, data: Path) -> list[Job]:
        """Every job that is stored, read past the service."""

    def problems(self, data: Path) -> list[str]:
        """What is wrong with the stored bytes themselves."""


class Sqlite:
    name = "sqlite"
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = {}

    def start(self) -> None:
        """The service's own process is all there is."""

    def kill(self) -> bool:
        return False

    def pid(self) -> int | None:
        return None

    def jobs(self, data: Path) -> list[Job]:
        with closing(_read_only(data)) as database:
            found = database.execute("SELECT document, report FROM jobs ORDER BY seq").fetchall()
        return [rows.load_job(*row) for row in found]

    def problems(self, data: Path) -> list[str]:
        with closing(_read_only(data)) as database:
            (checked,) = database.execute("PRAGMA integrity_check").fetchone()
        return [] if checked == "ok" else [f"the database is damaged: {checked}"]


def _read_only(data: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{data / 'bitlane.db'}?mode=ro", uri=True)


class Dynalite:
    """A DynamoDB server whose data lie in a folder, so that it too can be killed and started again."""

    name = "dynamodb"
    options = ("--store", "dynamodb")

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._folder = folder / "dynalite"
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.env = {
            "BITLANE_DYNAMODB_ENDPOINT": self.endpoint,
            "BITLANE_DYNAMODB_CREATE": "1",
            "BITLANE_DYNAMODB_TABLE": TABLE,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }

    def start(self) -> None:
        node = shutil.which("node")
        assert node is not None
        quick = ["--createTableMs", "0", "--deleteTableMs", "0", "--updateTableMs", "0"]
        where = ["--host", "127.0.0.1", "--port", str(self._port), "--path", str(self._folder)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([node, str(DYNALITE), *where, *quick], **quiet)

    def kill(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return False
        self._process.kill()
        self._process.wait()
        return True

    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def jobs(self, data: Path) -> list[Job]:
        return asyncio.run(self._jobs(LocalBlobs(data / "blobs")))

    async def _jobs(self, blobs: LocalBlobs) -> list[Job]:
        """By a scan of the whole table: an index may hide what the table has."""
        table = DynamoTable(name=TABLE, endpoint=self.endpoint, region="eu-west-1")
        await table.open()
        try:
            fields = ("document", "document_blob", "report", "report_blob")
            return [await dynamo_items.load_job(item, blobs) async for item in table.scan("created_at", fields)]
        finally:
            await table.close()

    def problems(self, data: Path) -> list[str]:
        return []


def make(name: str, folder: Path) -> Backend:
    return Sqlite() if name == "sqlite" else Dynalite(folder)
