"""What the port ``Blobs`` promises, held against every blob store."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest

from app.adapters.blobs.local import LocalBlobs
from app.domain.errors import NotFound, StoreUnavailable

WRITER = """
import asyncio, os, sys
from pathlib import Path
from app.adapters.blobs.local import LocalBlobs
async def write(blobs, data):
    while True:
        data = os.urandom(8) + data[8:]
        print(await blobs.put(data), flush=True)
async def main():
    blobs, data = LocalBlobs(Path(sys.argv[1])), bytes(4_000_000)
    await asyncio.gather(*(write(blobs, data) for _ in range(6)))
asyncio.run(main())
"""


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_bytes_are_kept_once_by_their_hash(blobs: LocalBlobs) -> None:
    for data in (b"", b"x", bytes(range(256)) * 5000):
        sha256 = await blobs.put(data)
        assert sha256 == hashlib.sha256(data).hexdigest()
        assert await asyncio.gather(*(blobs.put(data) for _ in range(8))) == [sha256] * 8
        assert await LocalBlobs(blobs.root).get(sha256) == data
    assert len(_files(blobs.root)) == 3


@pytest.mark.parametrize(
    "name", ["", "0" * 64, "A" * 64, "../../etc/passwd", "a" * 63, "a" * 65, "a" * 63 + "\n", "é" * 64]
)
async def test_a_blob_that_is_not_there_is_not_found(blobs: LocalBlobs, name: str) -> None:
    await blobs.put(b"something")
    with pytest.raises(NotFound):
        await blobs.get(name)


@pytest.mark.parametrize("damage", [b"", b"other bytes", b"tHe bytes"])
async def test_damage_is_seen_and_mended_by_the_next_put(blobs: LocalBlobs, damage: bytes) -> None:
    sha256 = await blobs.put(b"the bytes")
    next(path for path in _files(blobs.root) if path.name == sha256).write_bytes(damage)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await blobs.get(sha256)
    await blobs.put(b"the bytes")
    assert await blobs.get(sha256) == b"the bytes"


async def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        await LocalBlobs(tmp_path / "file" / "blobs").put(b"x")


async def test_a_killed_writer_leaves_whole_blobs_only(blobs: LocalBlobs) -> None:
    for _ in range(2):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(blobs.root), stdout=asyncio.subprocess.PIPE
        )
        assert writer.stdout is not None
        acknowledged = [await writer.stdout.readline() for _ in range(3)]
        writer.kill()
        acknowledged += (await writer.communicate())[0].splitlines(keepends=True)
        for line in acknowledged:
            if line.endswith(b"\n"):
                assert len(await blobs.get(line.decode().strip())) == 4_000_000
    (blobs.root / "tmp" / "left-behind").write_bytes(b"half")
    await blobs.open()
    for path in _files(blobs.root):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


async def test_opening_an_empty_folder_is_fine(blobs: LocalBlobs) -> None:
    await blobs.open()
    assert not blobs.root.exists()
