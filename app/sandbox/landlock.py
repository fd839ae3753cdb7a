"""Landlock: which files a jail may read, where it may write, no TCP, no signals or abstract sockets to others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from app.sandbox import syscalls

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
_FS_V1 = (1 << 13) - 1
# The file system's rights by ABI; each includes those of the ABI before.
_FS = {1: _FS_V1, 2: _FS_V1 | _REFER, 3: _FS_V1 | _REFER | _TRUNCATE, 4: _FS_V1 | _REFER | _TRUNCATE}
_FS_NEWEST = _FS_V1 | _REFER | _TRUNCATE | _IOCTL_DEV
_FILE_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11
_SCOPES = 0b11

_READ = _READ_FILE | _READ_DIR
# What may be done in scratch: everything but running it, devices, sockets and pipes by name.
_MAKE = sum(1 << bit for bit in (4, 5, 7, 8, 12))  # remove dir and file, make dir, regular file and symlink
_WRITE = _READ | _WRITE_FILE | _MAKE | _REFER | _TRUNCATE
_DEVICE = _READ | _WRITE_FILE | _IOCTL_DEV


def ruleset(*, read: Iterable[str], write: Iterable[str], devices: Iterable[str]) -> int:
    """A ruleset in which everything is forbidden but what is named here; paths that cannot be found are left out.

    The caller closes its descriptor. A rule on a directory holds for whatever is mounted over or below it later.
    """
    abi = syscalls.landlock_abi()
    fs = _FS.get(abi, _FS_NEWEST)
    fd = syscalls.landlock_ruleset(abi, fs=fs, net=_TCP if abi >= 4 else 0, scoped=_SCOPES if abi >= 6 else 0)
    try:
        for paths, rights in ((read, _READ), (write, _WRITE), (devices, _DEVICE)):
            for path in paths:
                with suppress(FileNotFoundError, PermissionError):
                    _allow(fd, path, rights & fs)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _allow(ruleset_fd: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_ONLY
        syscalls.landlock_allow(ruleset_fd, fd, rights)
    finally:
        os.close(fd)
