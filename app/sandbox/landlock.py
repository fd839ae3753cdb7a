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


class Rules:
    """Everything is forbidden but what is named here; paths that cannot be found are left out.

    The paths are looked up once, so that each of many processes makes its ruleset in a fraction of a millisecond. The
    descriptors stay open until ``close``.
    """

    def __init__(self, *, read: Iterable[str], write: Iterable[str], devices: Iterable[str]) -> None:
        self._abi = syscalls.landlock_abi()
        self._fs = _FS.get(self._abi, _FS_NEWEST)
        self._rules: list[syscalls.PathRule] = []
        try:
            for paths, rights in ((read, _READ), (write, _WRITE), (devices, _DEVICE)):
                for path in paths:
                    with suppress(FileNotFoundError, PermissionError):
                        self._rules.append(self._rule(path, rights))
        except BaseException:
            self.close()
            raise

    def ruleset(self, *, read: Iterable[str] = (), write: Iterable[str] = ()) -> int:
        """A ruleset of these rules and further paths; the caller closes its descriptor."""
        net, scoped = (_TCP if self._abi >= 4 else 0), (_SCOPES if self._abi >= 6 else 0)
        further = Rules(read=read, write=write, devices=())
        try:
            fd = syscalls.landlock_ruleset(self._abi, fs=self._fs, net=net, scoped=scoped)
            try:
                for rule in (*self._rules, *further._rules):
                    syscalls.landlock_allow(fd, rule)
            except BaseException:
                os.close(fd)
                raise
        finally:
            further.close()
        return fd

    def close(self) -> None:
        for rule in self._rules:
            os.close(rule.parent_fd)
        self._rules.clear()

    def _rule(self, path: str, rights: int) -> syscalls.PathRule:
        """A rule on a directory holds for whatever is below it, also for what is mounted there later."""
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _FILE_ONLY
        except BaseException:
            os.close(fd)
            raise
        return syscalls.PathRule(rights & self._fs, fd)
