"""The system call filter of a jail: a list of what is allowed; everything else is refused, and nothing kills.

A refusal is EPERM, so that the submission can say what it was refused. Calls that libraries only try out (``clone3``,
and whatever is newer than this list) are answered with ENOSYS, upon which they use an older one. Processes cannot be
started, threads can.
"""

from __future__ import annotations

import errno
import os
import struct

from app.sandbox import syscall_numbers, syscalls
from app.sandbox.syscall_numbers import CUDA, FILTERED

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x54, 0x06
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
# Stands for the process's own number until that is known.
_OWN_PID = 0x7EADBEEF

# A thread shares files and descriptors with the others: a table for each would be a way past their limits.
_CLONE_THREAD = 0x00010000 | 0x00000400 | 0x00000200
_CLONE_NEW = 0x7E020080  # every namespace
_MAP_HUGETLB = 0x40000
_MAP_SHARED_ANONYMOUS = 0x21
_O_TMPFILE = 0x400000  # files without a name could not be counted
_QUERY_PERSONALITY = 0xFFFFFFFF

# F_DUPFD to F_SETFL, F_SETLK and F_SETLKW, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS. Not F_SETOWN, which signals
# others, nor what tells of their locks.
_FCNTL = (*range(5), 6, 7, 1030, 1032, 1034)
# Whether it is a terminal and how large, bytes to read, blocking, close-on-exec.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_IOCTL_NEVER = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX type into a terminal
# Not MADV_COLD, MADV_PAGEOUT and their like, which push shared pages out of memory, nor MADV_MERGEABLE, nor
# MADV_RANDOM, with which single pages could be brought in and asked for.
_MADVICE = (0, 2, 3, 4, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 22, 23, 25)
# A thread's and a mapping's name can be set, other things only be read.
_PRCTL = (15, 0x53564D41, 2, 3, 16, 23, 30, 39, 42)

_CLOCKS = ("clock_gettime", "clock_getres", "clock_nanosleep", "timer_create")
_STATIC_CLOCKS = 16
_OWN_CLOCKS = 0xFFFFFFF8  # negative numbers hold a process's number, and the last eight of them none
_ABOUT_A_PROCESS = (
    *("getpgid", "getsid", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_getattr"),
    "sched_rr_get_interval",
)

Instruction = tuple[int, int, int, int]


class _Machine:
    """What differs between processors: ``index`` in the table of numbers, the audit architecture, the last number."""

    def __init__(self, index: int, arch: int, seccomp: int, newest: int) -> None:
        self.index, self.arch, self.seccomp, self.newest = index, arch, seccomp, newest


_MACHINES = {"x86_64": _Machine(0, 0xC000003E, 317, 451), "aarch64": _Machine(1, 0xC00000B7, 277, 451)}


class Filter:
    """The filter for this machine, all but the number of the process that it will bind."""

    def __init__(self, *, cuda: bool) -> None:
        machine = os.uname().machine
        if machine not in _MACHINES:
            raise OSError(errno.ENOSYS, f"there is no table of system calls for {machine}")
        self._machine = _MACHINES[machine]
        self._template = _packed(_program(self._machine, cuda=cuda))

    def install(self) -> None:
        """Bind this process and all its threads, for good."""
        mine = struct.pack("<I", os.getpid())
        syscalls.seccomp(self._machine.seccomp, self._template.replace(struct.pack("<I", _OWN_PID), mine))


def _program(machine: _Machine, *, cuda: bool) -> list[Instruction]:
    refused, unknown = _returning(_ERRNO | errno.EPERM), _returning(_ERRNO | errno.ENOSYS)
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, machine.arch),
        refused,
        (_LOAD, 0, 0, _NR),
        (_JUMP_AT_LEAST, 0, 1, _X32),
        refused,
        (_JUMP_GREATER, 0, 1, machine.newest),
        unknown,
    ]
    for name, block in _filtered(cuda=cuda).items():
        number = FILTERED[name][machine.index]
        if number is not None:
            program += [(_JUMP_EQUAL, 0, len(block), number), *block]
    allowed = {**syscall_numbers.ALLOWED, **(CUDA if cuda else {})}
    for numbers in allowed.values():
        number = numbers[machine.index]
        if number is not None:
            program += [(_JUMP_EQUAL, 0, 1, number), _returning(_ALLOW)]
    return [*program, refused]


def _filtered(*, cuda: bool) -> dict[str, list[Instruction]]:
    """Calls that depend on their arguments, each with instructions that end in a verdict."""
    myself, only_me = _one_of(0, (_OWN_PID,)), _one_of(0, (0, _OWN_PID))
    return {
        "clone": _masked(0, _CLONE_THREAD | _CLONE_NEW, _CLONE_THREAD),
        "clone3": [_returning(_ERRNO | errno.ENOSYS)],
        "mmap": _masked(3, _MAP_HUGETLB, 0) if cuda else _mapping(),
        "fallocate": _one_of(1, (0,)),  # other modes take room that no limit on a file's size sees
        "close_range": _one_of(2, (0, 4)),  # not a table of one's own
        **dict.fromkeys(_CLOCKS, _own_clock()),
        **dict.fromkeys(_ABOUT_A_PROCESS, only_me),
        "getpriority": _one_of(1, (0, _OWN_PID)),
        "madvise": _one_of(2, _MADVICE),
        "open": _masked(1, _O_TMPFILE, 0),
        "openat": _masked(2, _O_TMPFILE, 0),
        # Its flags lie in memory, where no filter can look.
        "openat2": [_returning(_ERRNO | errno.ENOSYS)],
        "kill": myself,
        "tgkill": myself,
        "rt_sigqueueinfo": myself,
        "rt_tgsigqueueinfo": myself,
        "prlimit64": only_me,
        "prctl": _one_of(0, _PRCTL),
        "fcntl": _one_of(1, _FCNTL),
        # The libraries place threads of their own before the filter is there.
        "sched_setaffinity": only_me if cuda else [_returning(_ERRNO | errno.EPERM)],
        "ioctl": _none_of(1, _IOCTL_NEVER) if cuda else _one_of(1, _IOCTL),
        "personality": _one_of(0, (_QUERY_PERSONALITY,)),
    }


def _returning(verdict: int) -> Instruction:
    return (_RETURN, 0, 0, verdict)


def _load(argument: int) -> Instruction:
    """The lower half of an argument, which is all that the kernel looks at for the arguments that are filtered."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)


def _one_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    tests = [(_JUMP_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_load(argument), *tests, _returning(_ERRNO | errno.EPERM), _returning(_ALLOW)]


def _none_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    tests = [(_JUMP_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_load(argument), *tests, _returning(_ALLOW), _returning(_ERRNO | errno.EPERM)]


def _mapping() -> list[Instruction]:
    """No huge pages, and no shared memory without a file: what is unmapped of it stays, and nothing would count it."""
    refused = _returning(_ERRNO | errno.EPERM)
    huge = [_load(3), (_AND, 0, 0, _MAP_HUGETLB), (_JUMP_EQUAL, 1, 0, 0), refused]
    shared = [_load(3), (_AND, 0, 0, _MAP_SHARED_ANONYMOUS), (_JUMP_EQUAL, 0, 1, _MAP_SHARED_ANONYMOUS), refused]
    return [*huge, *shared, _returning(_ALLOW)]


def _own_clock() -> list[Instruction]:
    """A clock of the machine, or the processor time of this process or of the calling thread."""
    return [
        _load(0),
        (_JUMP_AT_LEAST, 0, 2, _STATIC_CLOCKS),
        (_JUMP_AT_LEAST, 1, 0, _OWN_CLOCKS),
        _returning(_ERRNO | errno.EPERM),
        _returning(_ALLOW),
    ]


def _masked(argument: int, mask: int, wanted: int) -> list[Instruction]:
    verdicts = [_returning(_ERRNO | errno.EPERM), _returning(_ALLOW)]
    return [_load(argument), (_AND, 0, 0, mask), (_JUMP_EQUAL, 1, 0, wanted), *verdicts]


def _packed(program: list[Instruction]) -> bytes:
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
