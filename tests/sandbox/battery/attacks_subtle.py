"""Ways round a limit or into another's business that need to know how the kernel counts."""

from __future__ import annotations

from dataclasses import replace

from tests.sandbox.battery.base import Attack
from tests.sandbox.jails import LIMITS

_TIGHT = replace(LIMITS, memory_bytes=128 << 20)
_MAPS = """
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

def mapped(size, flags, fd=-1):
    at = _libc.mmap(None, size, 3, flags, fd, 0)
    if at in (None, 2 ** 64 - 1):
        raise OSError(ctypes.get_errno(), "mmap")
    return at
"""


def _probe(name: str, group: str, goal: str, code: str) -> Attack:
    return Attack(name=name, group=group, goal=goal, code=code, limits=_TIGHT)


ATTACKS = (
    _probe("memory-unmapped", "kernel", "keep shared memory that no map shows, but for one page of it", _MAPS + """
def attack(ctx):
    held = [mapped(32 << 20, 0x21) for _ in range(8)]
    for at in held:
        ctypes.memset(at, 1, 32 << 20)
        _libc.munmap(at + 4096, (32 << 20) - 4096)
    return f"{len(held) * 32} MB"
"""),
    _probe("memory-of-zeros", "devices", "map the device of zeros as shared memory", _MAPS + """
def attack(ctx):
    mapped(1 << 20, 1, os.open("/dev/zero", os.O_RDWR))
    return "mapped"
"""),
    _probe("table-of-descriptors", "kernel", "have a table of descriptors for every thread", """
def attack(ctx):
    # CLOSE_RANGE_UNSHARE
    return f"answered {syscall(436, 3000, 4000, 2)}"
"""),
    _probe("thread-with-its-own-files", "children", "start a thread that shares no descriptors", """
def attack(ctx):
    # CLONE_THREAD and CLONE_SIGHAND, without CLONE_FILES; nor with CLONE_VM, so that nothing comes of it.
    return reached("clone", 0x10800, 0, 0, 0, 0)
"""),
    _probe("room-beyond-the-file", "kernel", "take room on the disk that no limit on a file's size sees", """
def attack(ctx):
    fd = os.open("file", os.O_RDWR | os.O_CREAT, 0o600)
    # FALLOC_FL_KEEP_SIZE
    return f"answered {syscall(285, fd, 1, 0, 1 << 20)}"
"""),
    _probe("clock-of-other", "processes", "read the processor time of another process", """
def attack(ctx):
    held = ctypes.create_string_buffer(16)
    syscall(228, (~@victim_pid@ << 3) | 2, held)
    return f"{struct.unpack('qq', held.raw)}"
"""),
    _probe("group-of-other", "processes", "ask for another process's group", """
def attack(ctx):
    return f"group {syscall(121, @victim_pid@)}"
"""),
    _probe("locks-of-others", "kernel", "ask which locks others hold on a file that all can read", """
def attack(ctx):
    told = fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), fcntl.F_GETLK, struct.pack("hhqqi4x", 1, 0, 0, 0, 0))
    return f"answered {told[:2]!r}"
"""),
    _probe("lock-a-library", "kernel", "lock a file that all can read", """
def attack(ctx):
    fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    return "locked"
"""),
    _probe("load-of-machine", "kernel", "read how much runs on the machine", """
def attack(ctx):
    held = ctypes.create_string_buffer(112)
    syscall(99, held)
    return f"loads {struct.unpack_from('QQQ', held.raw, 8)}"
"""),
    Attack(
        name="leader-exits",
        group="behaviour",
        goal="end the first thread, so that nothing is measured of the others",
        code="""
        def attack(ctx):
            def work():
                time.sleep(3)
            threading.Thread(target=work, daemon=True).start()
            delivered()
            syscall(60, 0)
        """,
        expect=frozenset({"contract_violation"}),
        control="delivered",
    ),
)
