"""Jobs and received results in one SQLite file, ``bitlane.db`` under the data folder.

Every write goes through one thread that shares a transaction among all that wait; readers have connections of their own
and see the last commit. WAL with ``synchronous=FULL``: a commit is on the disk before anybody hears of it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from app.adapters.stores import rows
from app.adapters.stores.group_commit import GroupCommit, unavailable
from app.domain.errors import Conflict, DiskFull, StaleVersion, StoreUnavailable
from app.domain.job import Job
from app.ports import JobFilter, Page, Received

FILE_NAME = "bitlane.db"
SCHEMA_VERSION = 2
APPLICATION_ID = 0x6269746C
READERS = 3
RECOVERY_BATCH = 500

# ``report`` is the last column, so that reading the others does not touch the pages that it fills.
JOBS = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    experiment_id TEXT NOT NULL,
    status TEXT NOT NULL,
    lane TEXT,
    created_at REAL NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    unfinished INTEGER NOT NULL,
    document TEXT NOT NULL,
    report TEXT
);
CREATE INDEX jobs_newest ON jobs (created_at, id);
CREATE INDEX jobs_status ON jobs (status, created_at, id);
CREATE INDEX jobs_lane ON jobs (lane, created_at, id) WHERE lane IS NOT NULL;
CREATE INDEX jobs_owner ON jobs (owner, created_at, id);
CREATE INDEX jobs_experiment ON jobs (experiment_id);
CREATE INDEX jobs_unfinished ON jobs (unfinished) WHERE unfinished = 1;
"""
RECEIVED = """
CREATE TABLE received (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id TEXT NOT NULL UNIQUE,
    experiment_id TEXT NOT NULL,
    received_at REAL NOT NULL,
    payload TEXT NOT NULL
);
CREATE INDEX received_experiment ON received (experiment_id, received_at);
"""

COLUMNS = {
    "jobs": "seq, id, owner, experiment_id, status, lane, created_at, version, epoch, unfinished, document, report",
    "received": "seq, webhook_id, experiment_id, received_at, payload",
}

ADD = """
INSERT INTO jobs (id, owner, experiment_id, status, lane, created_at, version, epoch, unfinished, document, report)
VALUES (:id, :owner, :experiment_id, :status, :lane, :created_at, :version, :epoch, :unfinished, :document, :report)
ON CONFLICT (id) DO NOTHING
"""
COMMIT = """
UPDATE jobs SET experiment_id = :experiment_id, status = :status, lane = :lane, created_at = :created_at,
    version = :version, epoch = :epoch, unfinished = :unfinished, document = :document, report = :report
WHERE id = :id AND version = :version - 1 AND epoch <= :epoch
"""
RECEIVE = """
INSERT INTO received (webhook_id, experiment_id, received_at, payload) VALUES (?, ?, ?, ?)
ON CONFLICT (webhook_id) DO NOTHING
"""

# What leads from a schema to the next. A table is made anew, so that an old file ends as a new one would be.
MIGRATIONS = {
    1: f"""
ALTER TABLE jobs RENAME TO jobs_before;
DROP INDEX jobs_newest; DROP INDEX jobs_status; DROP INDEX jobs_lane; DROP INDEX jobs_experiment;
DROP INDEX jobs_unfinished;
{JOBS}
INSERT INTO jobs (seq, id, owner, experiment_id, status, lane, created_at, version, epoch, unfinished, document, report)
SELECT seq, id, 'local', experiment_id, status, lane, created_at, version, epoch, unfinished, document, report
FROM jobs_before ORDER BY seq;
DROP TABLE jobs_before;
""",
}

T = TypeVar("T")


class SqliteStore:
    """The ports ``Store`` and ``Inbox``. ``epoch`` is set once the lease is held; until then it is 0.

    ``patience_s`` is how long a write waits for another process that has locked the file.
    """

    def __init__(self, data: Path, *, epoch: int = 0, patience_s: float = 5.0) -> None:
        self.path = data / FILE_NAME
        self.epoch = epoch
        self._patience_s = patience_s
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []

    @property
    def endpoint(self) -> str:
        """Where the jobs are, for an operator."""
        return str(self.path)

    async def open(self) -> None:
        """Make or check the file. Raises ``StoreUnavailable`` with what is wrong with it and what to do."""
        self._writer = GroupCommit(await asyncio.to_thread(self._prepare))
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="sqlite-reader")

    async def close(self) -> None:
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        while self._opened:
            self._opened.pop().close()

    async def __aenter__(self) -> SqliteStore:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def add(self, job: Job) -> Job:
        stored = replace(job, version=1)
        if not await self._write(ADD, self._row(stored)):
            raise Conflict(f"a job with the id {job.id} exists")
        return stored

    async def commit(self, job: Job) -> Job:
        stored = replace(job, version=job.version + 1)
        if not await self._write(COMMIT, self._row(stored)):
            raise StaleVersion(f"job {job.id} is not at version {job.version}, or a later holder has written it")
        return stored

    async def get(self, job_id: str) -> Job | None:
        return await self._job("SELECT document, report FROM jobs WHERE id = ?", job_id)

    async def newest(self, experiment_id: str, owner: str = "local") -> Job | None:
        query = "SELECT document, report FROM jobs WHERE experiment_id = ? AND +owner = ? ORDER BY seq DESC LIMIT 1"
        return await self._job(query, experiment_id, owner)

    async def page(self, wanted: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        fields = {
            "status": wanted.state,
            "lane": wanted.lane,
            "experiment_id": wanted.experiment_id,
            "owner": wanted.owner,
        }
        terms = [f"{name} = ?" for name, value in fields.items() if value is not None]
        values: list[Any] = [value for value in fields.values() if value is not None]
        if cursor is not None:
            terms.append("(created_at, id) < (?, ?)")
            values += rows.decode_cursor(cursor)
        where = f"WHERE {' AND '.join(terms)}" if terms else ""
        query = f"SELECT document FROM jobs {where} ORDER BY created_at DESC, id DESC LIMIT ?"
        found = await self._read(lambda db: _jobs(db.execute(query, (*values, limit + 1))))
        more = rows.encode_cursor(found[limit - 1]) if len(found) > limit else None
        return Page(jobs=tuple(found[:limit]), cursor=more)

    async def unfinished(self) -> AsyncIterator[Job]:
        query = "SELECT seq, document FROM jobs WHERE unfinished = 1 AND seq > ? ORDER BY seq LIMIT ?"
        last = 0
        try:
            while batch := await self._all(query, last, RECOVERY_BATCH):
                last = batch[-1][0]
                for _, document in batch:
                    yield rows.load_job(document)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, sqlite3.OperationalError):
                raise
            raise self._unusable(error) from error

    async def receive(self, received: Received) -> bool:
        payload = rows.dump_payload(received.payload)
        row = (received.webhook_id, received.experiment_id, received.received_at, payload)
        return await self._write(RECEIVE, row)

    async def received(self, experiment_id: str) -> Received | None:
        found = await self._all(
            "SELECT webhook_id, received_at, payload FROM received WHERE experiment_id = ?"
            " ORDER BY received_at DESC, seq DESC LIMIT 1",
            experiment_id,
        )
        for webhook_id, received_at, payload in found:
            return Received(
                webhook_id=webhook_id,
                experiment_id=experiment_id,
                received_at=received_at,
                payload=rows.load_payload(payload),
            )
        return None

    async def experiments(self, *, limit: int) -> Sequence[str]:
        query = "SELECT experiment_id FROM received GROUP BY experiment_id ORDER BY MAX(received_at) DESC LIMIT ?"
        return [row[0] for row in await self._all(query, limit)]

    def _row(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "owner": job.owner,
            "experiment_id": job.experiment_id,
            "status": job.status,
            "lane": rows.lane_of(job),
            "created_at": job.created_at,
            "version": job.version,
            "epoch": self.epoch,
            "unfinished": job.unfinished,
            "document": rows.dump_job(job),
            "report": rows.dump_report(job.report),
        }

    async def _write(self, statement: str, row: Any) -> bool:
        """Whether the statement changed a row."""
        return await self._writer.do(lambda db: db.execute(statement, row).rowcount == 1)

    async def _job(self, query: str, *values: str) -> Job | None:
        for document, report in await self._all(query, *values):
            return rows.load_job(document, report)
        return None

    async def _all(self, query: str, *values: Any) -> list[Any]:
        return await self._read(lambda db: db.execute(query, values).fetchall())

    async def _read(self, step: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._with_reader, step)
        except sqlite3.Error as error:
            raise unavailable(error) from error
        except RuntimeError as error:
            raise StoreUnavailable("the store is closed") from error

    def _with_reader(self, step: Callable[[sqlite3.Connection], T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._opened.append(connection)
            connection.execute("PRAGMA query_only = ON")
        return step(connection)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=self._patience_s, isolation_level=None, check_same_thread=False)

    def _prepare(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connect()
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(
                f"{self.path} cannot be opened ({error}): make it a file that this user may write, or name another data"
                " folder"
            ) from error
        try:
            _prepare(connection, self.path)
        except sqlite3.Error as error:
            connection.close()
            refused = unavailable(error)
            raise (refused if isinstance(refused, DiskFull) else self._unusable(error)) from error
        except StoreUnavailable:
            connection.close()
            raise
        return connection

    def _unusable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.path} cannot be used: {error}. Restore it from a backup, or move it away to start empty"
        )


def _jobs(cursor: sqlite3.Cursor) -> list[Job]:
    return [rows.load_job(document) for (document,) in cursor]


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    with closing(connection.execute(f"PRAGMA {name}")) as cursor:
        return cursor.fetchone()[0]


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not ours before anything in it is changed; then switch to WAL and make the tables if it is new."""
    version = _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if (tables or version) and _pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreUnavailable(f"{path} is a database of another program: name another data folder")
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"{path} has schema {version}, this Bitlane knows schemas up to {SCHEMA_VERSION}: start the newer Bitlane"
            " that wrote it"
        )
    if _pragma(connection, "journal_mode = WAL") != "wal":
        raise StoreUnavailable(
            f"{path} is on a file system that cannot hold a write-ahead log: name another data folder"
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    stamp = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
    if version == 0:
        connection.executescript(f"BEGIN EXCLUSIVE; {JOBS} {RECEIVED} {stamp} COMMIT;")
    elif version < SCHEMA_VERSION:
        _back_up(connection, path.with_name(f"{path.name}.schema-{version}.backup"))
        steps = " ".join(MIGRATIONS[older] for older in range(version, SCHEMA_VERSION))
        try:
            connection.executescript(f"BEGIN EXCLUSIVE; {steps} {stamp} COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    # Tables that somebody has changed show here, before anything is promised, and not at the first write.
    for table, columns in COLUMNS.items():
        connection.execute(f"SELECT {columns} FROM {table} LIMIT 0")


def _back_up(connection: sqlite3.Connection, path: Path) -> None:
    """The file as it is, beside it; it appears whole or not at all. One that is there is from a try that failed."""
    unfinished = path.with_name(f"{path.name}.part")
    try:
        unfinished.unlink(missing_ok=True)
        connection.execute("VACUUM INTO ?", (str(unfinished),))
        unfinished.replace(path)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)
        raise StoreUnavailable(
            f"{path} cannot be written ({error}): without this backup the schema of the file beside it is not changed"
        ) from error
