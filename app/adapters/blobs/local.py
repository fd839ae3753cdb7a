"""Blobs as files, named by their sha256, in 256 folders by its first two digits.

A file appears under its name whole and synced, or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from pathlib import Path

from app.adapters.files import refusal, sweep, sync_folder, write_whole
from app.domain.errors import NotFound, StoreUnavailable

_SHA256 = re.compile(r"[0-9a-f]{64}")


class LocalBlobs:
    """The port ``Blobs``. The folder is made on the first put."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._temporary = root / "tmp"

    async def open(self) -> None:
        """Remove what a killed writer left half-written. Only the holder of the data folder may do that.

        Raises ``StoreUnavailable`` for a folder that is none.
        """
        try:
            await asyncio.to_thread(sweep, self._temporary)
        except OSError as error:
            advice = f"make {self.root} a folder that this user may write"
            raise refusal(error, f"{self._temporary} cannot be swept ({advice})") from error

    async def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        await asyncio.to_thread(self._put, self._path(sha256), data)
        return sha256

    async def get(self, sha256: str) -> bytes:
        """Raises ``NotFound``, or ``StoreUnavailable`` where the disk gives other bytes than were put."""
        if not _SHA256.fullmatch(sha256):
            raise NotFound(f"{sha256[:80]!r} is not the sha256 of a blob")
        return await asyncio.to_thread(self._get, sha256)

    async def check(self) -> None:
        await asyncio.to_thread(self._check)

    def _path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def _put(self, path: Path, data: bytes) -> None:
        try:
            if not _holds(path, data):
                self._write(path, data)
            # Also for a file that was there: who wrote it may not have come to this yet.
            sync_folder(path.parent)
        except OSError as error:
            raise refusal(error, f"{self.root} does not take a blob") from error

    def _write(self, path: Path, data: bytes) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        sync_folder(self.root)
        write_whole(path, data, self._temporary)

    def _check(self) -> None:
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._temporary) as file:
                file.write(b"room?")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise refusal(error, f"{self.root} does not take a blob") from error

    def _get(self, sha256: str) -> bytes:
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"there is no blob {sha256}") from None
        except OSError as error:
            raise refusal(error, f"blob {sha256} cannot be read") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StoreUnavailable(f"blob {sha256} is damaged on the disk: put the same content again to mend it")
        return data


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False
