"""What the ports ``Spool`` and ``Disk`` promise, and that a disk without room is called by its name."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
from store_backends import START, a_job, a_report

from app.adapters.blobs.local import LocalBlobs
from app.adapters.disk import FolderDisk
from app.adapters.files import refusal
from app.adapters.spool import FileSpool
from app.adapters.stores.sqlite import SqliteStore
from app.domain.errors import DiskFull, StoreUnavailable
from app.domain.job import ErrorType, Fault, Stage
from app.domain.lifecycle import AttemptEvent, Broke, Finished, Released, Stopped
from app.ports import Spooled

FAULT = Fault(error_type=ErrorType.EXCEPTION, message="boom é", stage=Stage.ENCODE, limit=0.1 + 0.2, log_tail="\x00x")
EVENTS: tuple[AttemptEvent, ...] = (
    Finished(at=START, attempt=1, report=a_report(points=3)),
    Broke(at=START + 1 / 3, attempt=2, fault=FAULT, report=a_report()),
    Broke(at=START, attempt=3, fault=FAULT),
    Released(at=START, attempt=4),
    Stopped(at=START, attempt=5),
)


@pytest.fixture
def spool(tmp_path: Path) -> FileSpool:
    return FileSpool(tmp_path / "data" / "spool")


async def test_what_was_put_is_there_exactly_until_it_is_removed(spool: FileSpool) -> None:
    put = [Spooled(job_id=f"j.{n}~x", event=event) for n, event in enumerate(EVENTS)]
    assert (await spool.all()).entries == ()
    for spooled in put:
        await spool.put(spooled)
        await spool.put(spooled)
    assert (await FileSpool(spool.root).all()).entries == tuple(put)
    for spooled in put:
        await spool.remove(spooled.job_id, spooled.event.attempt)
        await spool.remove(spooled.job_id, spooled.event.attempt)
    assert (await spool.all()).entries == ()


async def test_attempts_of_a_job_are_kept_apart(spool: FileSpool) -> None:
    for number in (1, 2):
        await spool.put(Spooled(job_id="j", event=Released(at=START, attempt=number)))
    await spool.remove("j", 1)
    assert [spooled.event.attempt for spooled in (await spool.all()).entries] == [2]


async def test_a_large_report_comes_back(spool: FileSpool) -> None:
    large = Finished(at=START, attempt=1, report=a_report(points=2000, note="x" * 5_000_000))
    await spool.put(Spooled(job_id="j", event=large))
    assert (await spool.all()).entries == (Spooled(job_id="j", event=large),)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"format": 2}', b"[]", b"null", b"moved"])
async def test_what_is_damaged_is_set_aside_and_named(spool: FileSpool, text: bytes) -> None:
    good = Spooled(job_id="good", event=Released(at=START, attempt=1))
    await spool.put(good)
    if text == b"moved":
        text = (spool.root / "good.1.json").read_bytes()
    (spool.root / "bad.7.json").write_bytes(text)
    for _ in range(2):
        found = await spool.all()
        assert (found.entries, found.damaged) == ((good,), ("bad.7.json.damaged",))
    assert (spool.root / "bad.7.json.damaged").read_bytes() == text


async def test_what_a_killed_writer_left_is_swept_away(spool: FileSpool) -> None:
    await spool.put(Spooled(job_id="j", event=Released(at=START, attempt=1)))
    (spool.root / "tmp" / "half").write_bytes(b"half")
    await spool.all()
    assert list((spool.root / "tmp").iterdir()) == []


async def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        await FileSpool(tmp_path / "file" / "spool").put(Spooled(job_id="j", event=EVENTS[0]))


async def test_the_disk_tells_its_room(tmp_path: Path) -> None:
    space = await FolderDisk(tmp_path).space()
    assert 0 < space.free_bytes <= space.total_bytes
    with pytest.raises(StoreUnavailable):
        await FolderDisk(tmp_path / "no such folder").space()


def test_no_room_is_not_just_any_error() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert type(refusal(OSError(number, os.strerror(number)), "x")) is DiskFull
    assert type(refusal(OSError(errno.EIO, "broken"), "x")) is StoreUnavailable


async def test_blobs_check_says_what_a_put_would(tmp_path: Path) -> None:
    await LocalBlobs(tmp_path / "blobs").check()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        await LocalBlobs(tmp_path / "file" / "blobs").check()


async def test_a_database_without_room_refuses_and_goes_on_once_there_is_some(tmp_path: Path) -> None:
    """SQLite itself keeps the file small here, which it reports as it reports a full disk."""
    async with SqliteStore(tmp_path) as store:
        kept = await store.add(a_job("kept"))

        async def limit(pages: int) -> None:
            await store._writer.do(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchall())

        await limit(1)
        with pytest.raises(DiskFull, match="no room"):
            for number in range(100):
                await store.add(a_job(f"too-much-{number}"))
        assert await store.get("kept") == kept
        await limit(1_000_000)
        assert (await store.add(a_job("after"))).version == 1
    with sqlite3.connect(tmp_path / "bitlane.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
