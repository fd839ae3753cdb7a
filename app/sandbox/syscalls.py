"""The few Linux calls that Python 3.11 does not offer, through ctypes. Each raises ``OSError`` with its errno."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

CAP_SYS_PTRACE = 19

_MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_MAX_CAPABILITIES = 64

# These numbers are the same on every architecture that came after 2011.
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_ADD_RULE = 445
_SYS_LANDLOCK_RESTRICT_SELF = 446

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.syscall.restype = ctypes.c_long


def _check(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def call(name: str, number: int, *arguments: int | ctypes.Array[ctypes.c_char] | ctypes.Structure | None) -> int:
    """A system call by its number; structures and buffers are passed by address."""
    given = [
        ctypes.byref(value) if isinstance(value, ctypes.Structure | ctypes.Array) else ctypes.c_long(value or 0)
        for value in arguments
    ]
    return _check(name, int(_libc.syscall(ctypes.c_long(number), *given)))


def unshare(flags: int) -> None:
    _check("unshare", _libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    _check("setns", _libc.setns(fd, kind))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    name = f"mount of {target}"
    _check(name, _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode()))


def detach(target: str) -> None:
    """Take a mount out of sight at once; it ends with its last user."""
    _check("umount2", _libc.umount2(os.fsencode(target), _MNT_DETACH))


def pivot_root(new_root: str, put_old: str) -> None:
    numbers = {"x86_64": 155, "aarch64": 41}
    machine = os.uname().machine
    if machine not in numbers:
        raise OSError(0, f"pivot_root has no known number on {machine}")
    new, old = (ctypes.create_string_buffer(os.fsencode(path)) for path in (new_root, put_old))
    call("pivot_root", numbers[machine], new, old)


def set_host_name(name: str) -> None:
    _check("sethostname", _libc.sethostname(name.encode(), len(name.encode())))


def set_parent_death_signal(number: int) -> None:
    """The kernel sends ``number`` to this process when the *thread* that forked it ends."""
    _check("prctl(PR_SET_PDEATHSIG)", _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def set_child_subreaper() -> None:
    """Orphaned descendants become children of this process instead of init's."""
    _check("prctl(PR_SET_CHILD_SUBREAPER)", _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def set_undumpable() -> None:
    """Nobody without privileges can trace this process or look into its memory and descriptors."""
    _check("prctl(PR_SET_DUMPABLE)", _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def set_dumpable() -> None:
    """The opposite, after a parent's choice or a change of uid."""
    _check("prctl(PR_SET_DUMPABLE)", _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def set_no_new_privs() -> None:
    _check("prctl(PR_SET_NO_NEW_PRIVS)", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective_low", ctypes.c_uint32),
        ("permitted_low", ctypes.c_uint32),
        ("inheritable_low", ctypes.c_uint32),
        ("effective_high", ctypes.c_uint32),
        ("permitted_high", ctypes.c_uint32),
        ("inheritable_high", ctypes.c_uint32),
    )


def has_capability(number: int) -> bool:
    header, data = _CapabilityHeader(_CAPABILITY_VERSION_3, 0), _CapabilityData()
    _check("capget", _libc.capget(ctypes.byref(header), ctypes.byref(data)))
    return bool(data.effective_low >> number & 1)


def drop_bounding_set() -> None:
    """No program that this process might execute could have a capability."""
    for number in range(_MAX_CAPABILITIES):
        # EINVAL past the last one; EPERM where there is nothing to give up, since CAP_SETPCAP itself is not held.
        if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            return


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header, data = _CapabilityHeader(_CAPABILITY_VERSION_3, 0), _CapabilityData()
    _check("capset", _libc.capset(ctypes.byref(header), ctypes.byref(data)))


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class PathRule(ctypes.Structure):
    """What is ``allowed`` at the path that ``parent_fd`` is open on, and below it."""

    allowed: int
    parent_fd: int
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


# Bytes of the ruleset's attributes by ABI: the network came with 4, scopes with 6.
_RULESET_BYTES = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where it has none."""
    try:
        return call("landlock", _SYS_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def landlock_ruleset(abi: int, *, fs: int, net: int, scoped: int) -> int:
    """A new ruleset that handles these rights; the caller closes its descriptor."""
    attributes = _Ruleset(fs, net, scoped)
    size = _RULESET_BYTES.get(abi, ctypes.sizeof(_Ruleset))
    return call("landlock_create_ruleset", _SYS_LANDLOCK_CREATE_RULESET, attributes, size, 0)


def landlock_allow(ruleset_fd: int, rule: PathRule) -> None:
    call("landlock_add_rule", _SYS_LANDLOCK_ADD_RULE, ruleset_fd, _RULE_PATH_BENEATH, rule, 0)


def landlock_restrict(ruleset_fd: int) -> None:
    call("landlock_restrict_self", _SYS_LANDLOCK_RESTRICT_SELF, ruleset_fd, 0)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("program", ctypes.c_void_p))


_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1


def seccomp(number: int, program: bytes) -> None:
    """Install a BPF program (8 bytes an instruction) as this process's filter, on all its threads."""
    room = ctypes.create_string_buffer(program, len(program))
    told = _Filter(len(program) // 8, ctypes.addressof(room))
    result = call("seccomp", number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, told)
    if result != 0:
        raise OSError(0, f"seccomp: thread {result} could not be put under the filter")
