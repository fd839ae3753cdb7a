"""Files that appear under their name whole and synced, or not at all; and what a disk's refusals are called."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from app.domain.errors import DiskFull, StoreUnavailable

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_whole(path: Path, data: bytes, temporary: Path) -> None:
    """Write the file by way of the folder ``temporary``, on the same file system. Durable once its folder is synced."""
    temporary.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=temporary, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def replace_whole(path: Path, data: bytes) -> None:
    """Give a small file new content, durably: who reads it sees the old or the new. Raises ``StoreUnavailable``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, data, path.parent)
        sync_folder(path.parent)
    except OSError as error:
        raise refusal(error, f"{path} cannot be written") from error


def sweep(temporary: Path) -> None:
    """Remove what a killed writer left half-written."""
    with suppress(FileNotFoundError):
        for left in list(os.scandir(temporary)):
            os.unlink(left.path)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refusal(error: OSError, what: str) -> StoreUnavailable:
    """The error of ours for one of the file system's: ``DiskFull`` where it lacks room."""
    kind = DiskFull if error.errno in _NO_ROOM else StoreUnavailable
    return kind(f"{what}: {error.strerror or error}")
