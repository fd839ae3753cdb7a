"""Bombs: more memory, processes, disk, output, log or time than a call may have. All are bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.sandbox.battery.base import Attack, Outcome
from tests.sandbox.jails import LIMITS

_TIGHT = replace(LIMITS, memory_bytes=128 << 20)
_MEMORY = frozenset({"memory_limit"})
# Where the very means is refused, the refusal shows as an exception.
_REFUSED = frozenset({"exception"})
_PROCESSES = frozenset({"process_limit", "memory_limit", "exception"})
_DISK = frozenset({"disk_limit"})
_WALL = frozenset({"wall_time_limit"})
_LOOP_WALL_S = 1.0


def _bomb(name: str, goal: str, code: str, expect: frozenset[str], *, shared: bool = False, **more: Any) -> Attack:
    return Attack(
        name=name, group="resources", goal=goal, code=code, expect=expect, limits=_TIGHT, counts_shared=shared, **more
    )


def _loop(name: str, goal: str, code: str) -> Attack:
    """Goes on for 2.5 s where a second is allowed."""
    return Attack(name=name, group="resources", goal=goal, code=code, expect=_WALL, wall_s=_LOOP_WALL_S)


_MEMORY_BOMBS = (
    _bomb(
        "memory-private",
        "hold 300 MB of private memory",
        """
        def attack(ctx):
            held = []
            for step in range(30):
                if step == 12:
                    breach()
                held.append(b"x" * (10 << 20))
            return "held 300 MB"
        """,
        _MEMORY,
    ),
    _bomb(
        "memory-at-once",
        "map 2 GB with one call",
        """
        def attack(ctx):
            breach()
            held = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            return f"mapped {len(held)} bytes"
        """,
        _MEMORY,
    ),
    _bomb(
        "memory-shared",
        "hold 300 MB of shared memory",
        """
        def attack(ctx):
            held = []
            for step in range(30):
                if step == 12:
                    breach()
                held.append(mmap.mmap(-1, 10 << 20))
                held[-1].write(b"x" * (10 << 20))
            return "held 300 MB"
        """,
        _MEMORY,
        shared=True,
    ),
    _bomb(
        "memory-memfd",
        "hold 300 MB in memory files that are not mapped",
        """
        def attack(ctx):
            held = []
            for step in range(30):
                if step == 12:
                    breach()
                held.append(os.memfd_create("x"))
                os.write(held[-1], b"x" * (10 << 20))
            return "held 300 MB"
        """,
        _MEMORY | _REFUSED | _DISK,
        shared=True,
    ),
    _bomb(
        "memory-tensor",
        "hold 300 MB in tensors",
        """
        def attack(ctx):
            import torch
            held = []
            for step in range(30):
                if step == 12:
                    breach()
                held.append(torch.ones(10 << 20, dtype=torch.uint8))
            return "held 300 MB"
        """,
        _MEMORY,
    ),
    _bomb(
        "memory-segments",
        "hold 300 MB in System V segments",
        """
        def attack(ctx):
            _libc.shmat.restype = ctypes.c_void_p
            for step in range(30):
                if step == 12:
                    breach()
                number = syscall("shmget", 0, 10 << 20, 0o1600)
                address = _libc.shmat(number, None, 0)
                # Removed at once, it is gone with the process.
                _libc.shmctl(number, 0, None)
                if address == ctypes.c_void_p(-1).value:
                    raise OSError(ctypes.get_errno(), "shmat")
                ctypes.memset(address, 1, 10 << 20)
            return "held 300 MB"
        """,
        _MEMORY | _REFUSED,
        shared=True,
    ),
    _bomb(
        "memory-children",
        "hold 320 MB in four processes",
        """
        def attack(ctx):
            for child in range(4):
                if child == 1:
                    breach()
                if os.fork() == 0:
                    held = b"x" * (80 << 20)
                    time.sleep(5)
                    os._exit(0)
            time.sleep(1.2)
            return "held 320 MB"
        """,
        _MEMORY | _PROCESSES,
    ),
    _bomb(
        "memory-stacks",
        "hold 320 MB in the stacks of threads",
        """
        def fill():
            attributes, base, size = ctypes.create_string_buffer(64), ctypes.c_void_p(), ctypes.c_size_t()
            _libc.pthread_self.restype = ctypes.c_ulong
            _libc.pthread_getattr_np(ctypes.c_ulong(_libc.pthread_self()), attributes)
            _libc.pthread_attr_getstack(attributes, ctypes.byref(base), ctypes.byref(size))
            ctypes.memset(base.value + (64 << 10), 1, size.value - (1 << 20))
            time.sleep(3)

        def attack(ctx):
            threading.stack_size(8 << 20)
            for step in range(40):
                if step == 15:
                    breach()
                threading.Thread(target=fill, daemon=True).start()
            time.sleep(0.5)
            return "held 320 MB"
        """,
        _MEMORY | _PROCESSES,
    ),
    _bomb(
        "memory-map-of-file",
        "map a file of 300 MB and fill it",
        """
        def attack(ctx):
            breach()
            fd = os.open("huge", os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(fd, 300 << 20)
            held = mmap.mmap(fd, 300 << 20)
            for start in range(0, 300 << 20, 10 << 20):
                held[start : start + (10 << 20)] = b"x" * (10 << 20)
            return "held 300 MB"
        """,
        _DISK | _MEMORY | {"signalled"},
        shared=True,
    ),
    Attack(
        name="memory-pipes",
        group="resources",
        goal="have the kernel hold 200 MB in pipes, which count as nobody's memory",
        code="""
        def attack(ctx):
            held, filled = [], 0
            for _ in range(200):
                reader, writer = os.pipe2(os.O_NONBLOCK)
                held += [reader, writer]
                try:
                    fcntl.fcntl(writer, 1031, 1 << 20)
                except OSError:
                    pass
                try:
                    filled += os.write(writer, b"x" * (1 << 20))
                except BlockingIOError:
                    break
            return f"{filled} bytes in pipes" if filled > 150 << 20 else None
        """,
    ),
    Attack(
        name="memory-sockets",
        group="resources",
        goal="have the kernel hold memory in sockets, which counts as nobody's",
        code="""
        def attack(ctx):
            held, filled = [], 0
            for _ in range(100):
                one, other = socket.socketpair()
                one.setblocking(False)
                held += [one, other]
                filled += one.send(b"x" * (128 << 10))
            return f"{filled} bytes in sockets" if filled > 5 << 20 else None
        """,
    ),
)

_PROCESS_BOMBS = (
    _bomb(
        "fork-bomb",
        "start 200 processes",
        """
        def attack(ctx):
            for step in range(200):
                if step == 1:
                    breach()
                if os.fork() == 0:
                    time.sleep(5)
                    os._exit(0)
            return "200 processes"
        """,
        _PROCESSES,
    ),
    _bomb(
        "thread-bomb",
        "start 2000 threads",
        """
        def attack(ctx):
            threading.stack_size(256 << 10)
            for step in range(2000):
                threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
            return "2000 threads"
        """,
        _PROCESSES,
    ),
    _bomb(
        "descriptor-bomb",
        "open 3000 descriptors",
        """
        def attack(ctx):
            held = [os.dup(0) for _ in range(3000)]
            return f"{len(held)} descriptors"
        """,
        frozenset({"process_limit"}),
    ),
    _bomb(
        "timer-bomb",
        "have the kernel keep 20,000 timers",
        """
        def attack(ctx):
            number = ctypes.c_int()
            for _ in range(20_000):
                syscall("timer_create", 1, 0, ctypes.byref(number))
            return "20000 timers"
        """,
        _REFUSED | _PROCESSES,
    ),
)

_DISK_BOMBS = (
    _bomb(
        "disk-files",
        "write 60 MB in many files",
        """
        def attack(ctx):
            for number in range(30):
                if number == 8:
                    breach()
                open(f"file{number}", "wb").write(b"x" * (2 << 20))
            time.sleep(0.5)
            return "wrote 60 MB"
        """,
        _DISK,
        shared=True,
    ),
    _bomb(
        "disk-one-file",
        "write 60 MB in one file",
        """
        def attack(ctx):
            with open("file", "wb") as file:
                for number in range(30):
                    if number == 8:
                        breach()
                    file.write(b"x" * (2 << 20))
            time.sleep(0.5)
            return "wrote 60 MB"
        """,
        _DISK,
        shared=True,
    ),
    _bomb(
        "disk-deleted-files",
        "write 200 MB in files that are deleted but open, where no listing shows them",
        """
        def attack(ctx):
            held = []
            for number in range(20):
                if number == 2:
                    breach()
                held.append(os.open("file", os.O_WRONLY | os.O_CREAT, 0o600))
                os.unlink("file")
                os.write(held[-1], b"x" * (10 << 20))
            time.sleep(0.5)
            return "wrote 200 MB"
        """,
        _DISK,
        shared=True,
    ),
    _bomb(
        "disk-unnamed-files",
        "write 200 MB in files that never had a name",
        """
        def attack(ctx):
            held = []
            for number in range(20):
                if number == 2:
                    breach()
                held.append(os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600))
                os.write(held[-1], b"x" * (10 << 20))
            time.sleep(0.5)
            return "wrote 200 MB"
        """,
        _DISK | _REFUSED,
        shared=True,
    ),
    _bomb(
        "disk-reserved",
        "reserve 60 MB without writing",
        """
        def attack(ctx):
            for number in range(6):
                if number == 1:
                    breach()
                os.posix_fallocate(os.open(f"file{number}", os.O_RDWR | os.O_CREAT), 0, 10 << 20)
            time.sleep(0.5)
            return "reserved 60 MB"
        """,
        _DISK | _REFUSED,
        shared=True,
    ),
    _bomb(
        "disk-empty-files",
        "make 30,000 empty files, each of which costs the kernel a kilobyte",
        """
        def attack(ctx):
            for number in range(30_000):
                os.close(os.open(f"f{number}", os.O_WRONLY | os.O_CREAT, 0o600))
            return "30000 files"
        """,
        _DISK,
        # Where the scratch is a folder, the supervisor counts them without any layer.
        control_code="""
        def attack(ctx):
            for number in range(10_000):
                os.close(os.open(f"f{number}", os.O_WRONLY | os.O_CREAT, 0o600))
            return "10000 files, none of which is a byte long"
        """,
    ),
)


def _log_too_long(outcome: Outcome, control: bool) -> str | None:
    kept = len(outcome.log)
    return f"{kept} characters of log" if kept > LIMITS.log_bytes + 100 else None


_OUTPUT_BOMBS = (
    _bomb("output-bomb", "return 40 MB", "def attack(ctx): return b'x' * (40 << 20)", frozenset({"output_limit"})),
    Attack(
        name="log-bomb",
        group="resources",
        goal="have the service keep 100 MB of what the code prints",
        code="""
        def attack(ctx):
            line = b"x" * (1 << 20)
            for _ in range(100):
                done = 0
                while done < len(line):
                    done += os.write(1, line[done:])
            raise ValueError("printed")
        """,
        judge=_log_too_long,
        wall_s=20,
    ),
    Attack(
        name="core-dump",
        group="resources",
        goal="leave a core dump on the disk",
        code="""
        def attack(ctx):
            resource.setrlimit(resource.RLIMIT_CORE, (8 << 20, 8 << 20))
            os.chdir(@target@)
            os.abort()
        """,
        after="target",
        needs=lambda world: world.cores_elsewhere,
    ),
)

_STOPPED = """
def attack(ctx):
    # A timer of the kernel wakes the process, so that the control comes to an end.
    number = ctypes.c_int()
    syscall("timer_create", 1, struct.pack("qii", 0, signal.SIGCONT, 0).ljust(64, b"\\0"), ctypes.byref(number))
    syscall("timer_settime", number.value, 0, struct.pack("4q", 0, 0, 2, 500_000_000), 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    return "slept on"
"""

_ENDLESS = (
    _loop("loop", "run for ever", """
        def attack(ctx):
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                pass
            return "ran on"
        """),
    _loop("loop-without-signals", "run for ever with every signal blocked and ignored", """
        def attack(ctx):
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    continue
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                pass
            return "ran on"
        """),
    _loop("loop-under-lock", "run for ever without letting any other thread of the process run",
          "def attack(ctx):\n    ctypes.PyDLL(None).usleep(2_500_000)\n    return 'ran on'\n"),
    _loop("loop-of-threads", "run for ever on all cores", """
        def attack(ctx):
            import torch
            torch.set_num_threads(8)
            one, end = torch.rand(500, 500), time.monotonic() + 2.5
            while time.monotonic() < end:
                one @ one
            return "ran on"
        """),
    _loop("loop-at-import", "run for ever before the call", """
        _end = time.monotonic() + 2.5
        while time.monotonic() < _end:
            pass
        def attack(ctx):
            return "ran on"
        """),
    _loop("loop-of-alarms", "flood oneself with signals", """
        def attack(ctx):
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 1e-5, 1e-5)
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                pass
            return "ran on"
        """),
    _loop("loop-at-exit", "run for ever when asked to stop", """
        import atexit
        class Last:
            def __del__(self):
                time.sleep(2.5)
        def attack(ctx):
            atexit.register(time.sleep, 2.5)
            Last()
            return "ran on"
        """),
    _loop("stop-oneself", "stop, so that nothing ever ends", _STOPPED),
)

ATTACKS = (*_MEMORY_BOMBS, *_PROCESS_BOMBS, *_DISK_BOMBS, *_OUTPUT_BOMBS, *_ENDLESS)
