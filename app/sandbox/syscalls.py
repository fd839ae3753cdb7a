"""The few Linux calls that Python 3.11 does not offer, through ctypes. Each raises ``OSError`` with its errno."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_PRIVATE = 0x40000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def _check(name: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check("unshare", _libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    _check("setns", _libc.setns(fd, kind))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _check("mount", _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()))


def set_parent_death_signal(number: int) -> None:
    """The kernel sends ``number`` to this process when the *thread* that forked it ends."""
    _check("prctl(PR_SET_PDEATHSIG)", _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def set_child_subreaper() -> None:
    """Orphaned descendants become children of this process instead of init's."""
    _check("prctl(PR_SET_CHILD_SUBREAPER)", _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def set_undumpable() -> None:
    """Nobody without privileges can trace this process or look into its memory and descriptors."""
    _check("prctl(PR_SET_DUMPABLE)", _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def set_no_new_privs() -> None:
    _check("prctl(PR_SET_NO_NEW_PRIVS)", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
