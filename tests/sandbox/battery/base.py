"""What an attack is, and how it becomes the source of a submission."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.job import Limits
from tests.sandbox.jails import LIMITS

if TYPE_CHECKING:
    from tests.sandbox.battery.world import World

# x86_64 numbers. Every call goes through syscall(2), so that no wrapper in libc can refuse before the kernel does.
SYSCALLS = {
    "mremap": 25, "shmget": 29, "shmat": 30, "clone": 56, "fork": 57, "vfork": 58, "kill": 62, "semop": 65,
    "msgget": 68, "msgrcv": 70, "ptrace": 101, "syslog": 103, "capget": 125, "capset": 126, "rt_sigqueueinfo": 129,
    "personality": 135, "setpriority": 141, "sched_setscheduler": 144, "mlockall": 151, "munlockall": 152,
    "modify_ldt": 154, "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163, "mount": 165, "umount2": 166,
    "swapon": 167, "reboot": 169, "sethostname": 170, "iopl": 172, "ioperm": 173, "init_module": 175,
    "delete_module": 176, "quotactl": 179, "tkill": 200, "timer_create": 222, "timer_settime": 223,
    "clock_settime": 227, "tgkill": 234, "mq_open": 240, "mq_timedreceive": 243, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "ioprio_set": 251, "inotify_init1": 294, "inotify_add_watch": 254,
    "migrate_pages": 256, "unshare": 272, "get_robust_list": 274, "move_pages": 279, "rt_tgsigqueueinfo": 297,
    "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "memfd_create": 319,
    "bpf": 321, "execveat": 322, "userfaultfd": 323, "pidfd_send_signal": 424, "io_uring_setup": 425,
    "open_tree": 428, "fsopen": 430, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "landlock_create_ruleset": 444, "memfd_secret": 447, "process_mrelease": 448,
}  # fmt: skip

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, resource, select, signal, socket, struct, sys, threading, time
NR = {syscalls}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
# A name by which whatever of this process is left is found; children inherit it.
_libc.prctl(15, {mark}, 0, 0, 0)

def syscall(name, *arguments):
    number = NR[name] if isinstance(name, str) else name
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = _libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def reached(name, *arguments):
    # Any answer but a plain refusal means that the kernel's own code for the call was run.
    try:
        return f"answered {{syscall(name, *arguments)}}"
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES):
            raise
        return f"answered {{errno.errorcode[error.errno]}}"

def machine(code):
    # Calls instructions of our own as a function.
    place = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    place.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(place)))
    function.place = place
    return function

def breach():
    # From here on the limit is passed: the call has a second left.
    os.write(2, b"breach %.6f\\n" % time.monotonic())

def delivered():
    os.write(2, b"delivered\\n")
"""

_ENTRIES = {
    "encode": """
def encode(frames, ctx):
    found = attack(ctx)
    return found if isinstance(found, bytes) else (found or "").encode("utf-8", "replace")
""",
    "decode": """
def decode(bitstream, ctx):
    import torch
    found = (attack(ctx) or "").encode("utf-8", "replace")
    frames = torch.zeros(ctx.clip.frames * 3 * ctx.clip.height * ctx.clip.width, dtype=torch.uint8)
    for place, value in enumerate(found[:1000]):
        frames[place] = value
    return frames.reshape(ctx.clip.frames, 3, ctx.clip.height, ctx.clip.width)
""",
}

# How a plain process, without any jail, tries the same: what fails there too can have no control on this machine.
PLAIN_ENTRY = """
import types
try:
    print(attack(types.SimpleNamespace(scratch=os.getcwd())) or "")
except OSError as error:
    print(f"refused to any process here: {error}")
    sys.exit(3)
"""


class MissingFact(Exception):
    """The world on this machine has no such target."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a call ended, seen from the service. ``error_type`` is "done" where it ended without a fault."""

    error_type: str
    message: str = ""
    log: str = ""
    bitstream: bytes = b""
    took_s: float = 0.0
    ended_at: float = 0.0
    host_bytes: int = 0

    @property
    def text(self) -> str:
        return self.bitstream.rstrip(b"\0").decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """Code that defines ``attack(ctx)``. What counts as success is one of:

    - nothing else is stated: the text that it returns, which holds the fact named by ``wants`` if there is one;
    - ``log``: this text in the call's log, for code that does not live on to return anything;
    - ``after``: this kind of harm, found from outside when the call is over;
    - ``expect``: the call did not end as one of these, or not within a second of the breach, or it took more of the
      host's memory than its limits allow. The control is that the code returns text where the limits are wide, or, for
      what only the supervisor's own checks stop (``control="delivered"``), that the attack reached the supervisor;
    - ``judge``: its own verdict from the outcome, evidence or None; the second argument says whether it is the control.

    ``control_code`` replaces ``code`` in the control, where the real thing would hurt the machine or where the defence
    is no layer that can be left off. A control that is a race is tried ``tries`` times. ``needs`` says why this machine
    can have no control, if so.
    """

    name: str
    group: str
    goal: str
    code: str
    wants: str | None = None
    log: str | None = None
    after: str | None = None
    expect: frozenset[str] = frozenset()
    control: str = "text"
    judge: Callable[[Outcome, bool], str | None] | None = None
    control_code: str | None = None
    needs: Callable[[World], str | None] | None = None
    limits: Limits = LIMITS
    wall_s: float = 10.0
    side: str = "encode"
    counts_shared: bool = False
    tries: int = 1


def source(attack: Attack, facts: Mapping[str, str], *, control: bool = False, plain: bool = False) -> str:
    """The submission. Raises ``MissingFact``."""
    body = attack.code if not control or attack.control_code is None else attack.control_code
    prelude = PRELUDE.format(syscalls=SYSCALLS, mark=repr(facts["mark"].encode()))
    return prelude + fill(textwrap.dedent(body), facts) + (PLAIN_ENTRY if plain else _ENTRIES[attack.side])


def fill(code: str, facts: Mapping[str, str]) -> str:
    """Put the facts in place of ``@name@``: numbers as they are, everything else as a string literal."""

    def literal(found: re.Match[str]) -> str:
        name = found[1]
        if name not in facts:
            raise MissingFact(f"there is no {name} here")
        return facts[name] if re.fullmatch(r"-?\d+", facts[name]) else repr(facts[name])

    return re.sub(r"@([a-z_]+)@", literal, code)
