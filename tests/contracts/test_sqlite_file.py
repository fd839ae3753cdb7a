"""The database file itself: others' files, damage, full disks, other processes; and one thread for all writes."""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from store_backends import a_job, a_report, running, succeeded

from app.adapters.stores.sqlite import APPLICATION_ID, SCHEMA_VERSION, SqliteStore
from app.domain.errors import StoreUnavailable
from app.domain.job import Job
from app.ports import JobFilter


def _connect(data: Path) -> closing[sqlite3.Connection]:
    data.mkdir(exist_ok=True)
    return closing(sqlite3.connect(data / "bitlane.db", isolation_level=None))


async def _refused(data: Path) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await SqliteStore(data).open()
    assert str(data / "bitlane.db") in str(caught.value)
    return str(caught.value)


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with _connect(tmp_path) as theirs:
        theirs.execute("CREATE TABLE notes (text)")
    before = (tmp_path / "bitlane.db").read_bytes()
    assert "another program" in await _refused(tmp_path)
    assert (tmp_path / "bitlane.db").read_bytes() == before
    assert not (tmp_path / "bitlane.db-wal").exists()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with _connect(tmp_path) as newer:
        newer.execute("CREATE TABLE jobs (id)")
        newer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 6}")
    message = await _refused(tmp_path)
    assert f"schema {SCHEMA_VERSION + 6}" in message and "newer" in message


SCHEMA_1 = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, experiment_id TEXT NOT NULL, status TEXT NOT NULL,
    lane TEXT, created_at REAL NOT NULL, version INTEGER NOT NULL, epoch INTEGER NOT NULL, unfinished INTEGER NOT NULL,
    document TEXT NOT NULL, report TEXT
);
CREATE INDEX jobs_newest ON jobs (created_at, id);
CREATE INDEX jobs_status ON jobs (status, created_at, id);
CREATE INDEX jobs_lane ON jobs (lane, created_at, id) WHERE lane IS NOT NULL;
CREATE INDEX jobs_experiment ON jobs (experiment_id);
CREATE INDEX jobs_unfinished ON jobs (unfinished) WHERE unfinished = 1;
CREATE TABLE received (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, webhook_id TEXT NOT NULL UNIQUE, experiment_id TEXT NOT NULL,
    received_at REAL NOT NULL, payload TEXT NOT NULL
);
CREATE INDEX received_experiment ON received (experiment_id, received_at);
"""


async def _an_old_file(data: Path, jobs: list[Job]) -> None:
    """The jobs as the first version of Bitlane kept them: its tables, its documents."""
    async with SqliteStore(data / "new") as store:
        for job in jobs:
            added = await store.add(job)
            await store.commit(succeeded(running(added), a_report()))
    with _connect(data / "new") as new, _connect(data) as old:
        old.executescript(f"{SCHEMA_1} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")
        columns = "seq, id, experiment_id, status, lane, created_at, version, epoch, unfinished, document, report"
        for row in new.execute(f"SELECT {columns} FROM jobs").fetchall():
            document = json.loads(row[9])
            for name in ("owner", "weight"):
                del document[name]
            values = (*row[:9], json.dumps(document), row[10])
            old.execute(f"INSERT INTO jobs ({columns}) VALUES ({', '.join('?' * 11)})", values)
        old.execute(
            "INSERT INTO received (webhook_id, experiment_id, received_at, payload) VALUES ('w', 'e', 1.5, '{}')"
        )


def _schema(data: Path) -> set[tuple[str, str]]:
    with _connect(data) as reader:
        found = reader.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        return {(name, "".join(sql.split())) for name, sql in found}


async def test_an_older_file_is_brought_up_to_date_and_kept_as_a_backup(tmp_path: Path) -> None:
    await _an_old_file(tmp_path, [a_job(f"j{n}", experiment_id="e") for n in range(3)])
    async with SqliteStore(tmp_path) as store:
        page = await store.page(JobFilter(owner="local"), limit=9)
        assert {job.id for job in page.jobs} == {"j0", "j1", "j2"}
        newest = await store.newest("e")
        assert newest is not None and newest.id == "j2" and newest.report == a_report()
        assert await store.received("e") is not None
        await store.add(a_job("j3", experiment_id="e"))
        assert (await store.newest("e")).id == "j3"  # type: ignore[union-attr]
    assert _schema(tmp_path) == _schema(tmp_path / "new")
    with closing(sqlite3.connect(tmp_path / "bitlane.db.schema-1.backup")) as backup:
        assert backup.execute("PRAGMA user_version").fetchone() == (1,)
        assert backup.execute("SELECT count(*) FROM jobs").fetchone() == (3,)
    async with SqliteStore(tmp_path) as store:
        assert await store.get("j3") is not None


async def test_without_room_for_a_backup_an_older_file_stays_as_it_is(tmp_path: Path) -> None:
    await _an_old_file(tmp_path, [a_job("j0")])
    (tmp_path / "bitlane.db.schema-1.backup").mkdir()
    assert "backup" in await _refused(tmp_path)
    with _connect(tmp_path) as reader:
        assert reader.execute("PRAGMA user_version").fetchone() == (1,)
    assert not (tmp_path / "bitlane.db.schema-1.backup.part").exists()
    (tmp_path / "bitlane.db.schema-1.backup").rmdir()
    async with SqliteStore(tmp_path) as store:
        assert await store.get("j0") is not None


@pytest.mark.parametrize("damage", ["text", "cut", "zeroed head"])
async def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    async with SqliteStore(tmp_path) as store:
        for n in range(50):
            await store.add(a_job(f"j{n}"))
    path = tmp_path / "bitlane.db"
    whole = path.read_bytes()
    damaged = {"text": b"this is not a database\n" * 500, "cut": whole[: len(whole) // 2], "zeroed head": bytes(4096)}
    path.write_bytes(damaged[damage] + (whole[4096:] if damage == "zeroed head" else b""))
    assert "backup" in await _refused(tmp_path)


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="file"):
        await SqliteStore(tmp_path / "file").open()


async def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / "bitlane.db").touch()
    async with SqliteStore(tmp_path) as store:
        await store.add(a_job("one"))
    with _connect(tmp_path) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert reader.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


async def test_a_lock_by_another_process_is_waited_for_then_unavailable(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path, patience_s=0.2) as store:
        job = await store.add(a_job("one"))
        with _connect(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            outcomes = await asyncio.gather(store.commit(running(job)), store.add(a_job("two")), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
            assert await store.get("one") == job, "readers go on"
            other.execute("ROLLBACK")
        assert await store.get("two") is None
        assert (await store.commit(running(job))).version == 2


async def test_a_full_disk_is_unavailable_and_harms_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the write fails in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with SqliteStore(tmp_path) as store:
        kept = [await store.add(a_job(f"j{n}")) for n in range(5)]
        size = (tmp_path / "bitlane.db-wal").stat().st_size
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40_000, hard))
            large = succeeded(kept[0], a_report(note="x" * 500_000))
            with pytest.raises(StoreUnavailable):
                await store.commit(large)
            assert await store.get("j0") == kept[0]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (await store.commit(large)).version == 2
    async with SqliteStore(tmp_path) as store:
        assert len((await store.page(JobFilter(), limit=10)).jobs) == 5
    with _connect(tmp_path) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_many_writes_share_few_transactions(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        first = await asyncio.gather(*(store.add(a_job(f"j{n}")) for n in range(200)))
        frames = (tmp_path / "bitlane.db-wal").stat().st_size // 4120
    assert len(first) == 200
    # Alone, each add would write at least six pages: the table's, its five indexes'.
    assert frames < 200 * 6 / 3


async def test_a_write_whose_caller_gave_up_harms_no_other(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        calls = [asyncio.ensure_future(store.add(a_job(f"j{n}"))) for n in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, Job) for outcome in outcomes[1::2])
        assert await store.add(a_job("after"))


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        late = asyncio.ensure_future(store.add(a_job("one")))
        await asyncio.sleep(0)
    assert (await late).version == 1, "what waits is written before the store closes"
    for attempt in (store.add(a_job("two")), store.get("one")):
        with pytest.raises(StoreUnavailable, match="closed"):
            await attempt


async def test_pages_and_recovery_read_no_report(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        job = await store.commit(succeeded(await store.add(a_job("one")), a_report()))
        with _connect(tmp_path) as other:
            other.execute("UPDATE jobs SET report = 'not a report'")
        assert [found.id for found in (await store.page(JobFilter(), limit=5)).jobs] == ["one"]
        assert [found.id async for found in store.unfinished()] == ["one"]
        with pytest.raises(StoreUnavailable, match="one"):
            await store.get(job.id)
