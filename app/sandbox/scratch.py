"""The scratch of a jail that cannot mount one: a folder on the machine's disk, measured and removed from outside.

Its name says whose it is, so that what a killed evaluator left is found and removed by the next one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress

MOST_FILES = 20_000
_MOST_DEPTH = 64
_ENTRY_BYTES = 4096
_PREFIX = "bitlane-jail-"
_NAME = re.compile(_PREFIX + r"(\d+)-(\d+)-\w+")


class Unmeasurable(Exception):
    """The folder is in a state in which its size cannot be told; the message says why."""


def make(root: str | None) -> str:
    """A new folder of this process below ``root``, or where temporary files lie."""
    return tempfile.mkdtemp("", f"{_PREFIX}{os.getpid()}-{_started(os.getpid())}-", root)


def remove(folder: str) -> None:
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        # Folders nested thousands deep, or locked by their modes: these tools know how.
        for tool in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*tool, "--", folder], check=False, stderr=subprocess.DEVNULL)


def sweep(root: str | None) -> None:
    """Remove the folders of processes that are gone."""
    with suppress(OSError):
        where = root or tempfile.gettempdir()
        for name in os.listdir(where):
            owner = _NAME.fullmatch(name)
            if owner is not None and _started(int(owner[1])) != int(owner[2]):
                remove(os.path.join(where, name))


def _started(pid: int) -> int:
    """When a process began, in the kernel's ticks since it booted; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def size_of(folder: str, pid: int) -> int:
    """Bytes that a jail's files take on the disk, those without a name included. Raises ``Unmeasurable``."""
    return _named(folder) + _nameless(folder, pid)


def _named(folder: str) -> int:
    """Each entry counts with at least a block."""
    total, entries, waiting = 0, 0, [(folder, 0)]
    while waiting:
        path, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise Unmeasurable(f"its folders are nested deeper than {_MOST_DEPTH}")
        try:
            with os.scandir(path) as listed:
                for entry in listed:
                    entries += 1
                    with suppress(FileNotFoundError):
                        total += max(_ENTRY_BYTES, entry.stat(follow_symlinks=False).st_blocks * 512)
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append((entry.path, depth + 1))
                    if entries > MOST_FILES:
                        raise Unmeasurable(f"it holds more than {MOST_FILES} files")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Unmeasurable(f"a folder in it cannot be listed: {error.strerror}") from error
    return total


def _nameless(folder: str, pid: int) -> int:
    """Deleted files on the folder's disk that the process holds open. One that it only maps cannot be measured."""
    total, seen = 0, set()
    with suppress(OSError):
        disk = os.stat(folder).st_dev
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                told = os.stat(f"/proc/{pid}/fd/{name}")
                if told.st_dev == disk and told.st_nlink == 0 and told.st_ino not in seen:
                    seen.add(told.st_ino)
                    total += told.st_blocks * 512
        if _mapped_deleted(pid, disk) - seen:
            raise Unmeasurable("a file is mapped that is deleted and closed")
    return total


def _mapped_deleted(pid: int, disk: int) -> set[int]:
    """Inodes on that disk which a process maps and which have no name any more."""
    device = f"{os.major(disk):02x}:{os.minor(disk):02x}"
    found = set()
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("(deleted)\n"):
                fields = line.split(maxsplit=5)
                if fields[3] == device:
                    found.add(int(fields[4]))
    return found
