"""``python -m tests.sandbox.as_user UID COMMAND...``: root runs a command as an ordinary user of this host.

The interpreter and this checkout may lie in folders that only root may enter: then they are shown, in a mount namespace
of the command's own, at the places where they are.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from app.sandbox import syscalls

ROOT = Path(__file__).resolve().parents[2]


def _blocked(path: Path) -> Path | None:
    """The first folder on the way to ``path`` that others may not enter."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _show(paths: list[Path]) -> None:
    hidden = {path: folder for path in paths if (folder := _blocked(path)) is not None}
    held = {path: os.open(path, os.O_PATH) for path in hidden}
    for folder in set(hidden.values()):
        syscalls.mount("none", str(folder), "tmpfs", 0, "mode=0755")
    for path, fd in held.items():
        path.mkdir(parents=True, exist_ok=True)
        syscalls.mount(f"/proc/self/fd/{fd}", str(path), "", syscalls.MS_BIND | syscalls.MS_REC)


def main(uid: int, command: list[str]) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    _show([ROOT, Path(sys.base_prefix).resolve()])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir(ROOT)
    environment = {**os.environ, "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
