"""Other processes: see them, read them, change them, end them."""

from __future__ import annotations

from tests.sandbox.battery.base import Attack

_SIGNAL_INFO = """
    info = struct.pack("iii", number, 0, -1).ljust(128, b"\\0")
"""


def _probe(name: str, goal: str, code: str, wants: str | None = None) -> Attack:
    return Attack(name=name, group="processes", goal=goal, code=code, wants=wants)


def _harm(name: str, goal: str, code: str) -> Attack:
    return Attack(name=name, group="processes", goal=goal, code=code, after="victim")


def _line(line: str) -> str:
    return f"def attack(ctx):\n    {line}\n"


_LOOKS = (
    _probe(
        "list-processes",
        "see which processes run on the machine",
        """
        def attack(ctx):
            names = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    names.append(open(f"/proc/{pid}/comm").read().strip())
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has ended meanwhile
            return " ".join(names)
        """,
        "victim_name",
    ),
    _probe(
        "see-any-process",
        "see the zygote or any other process of the service",
        """
        def attack(ctx):
            found = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    text = open(f"/proc/{pid}/cmdline", "rb").read()
                except OSError:
                    continue
                if text and not os.path.samefile(f"/proc/{pid}", "/proc/self"):
                    found.append(pid)
            # A namespace of its own has one first process that does nothing.
            return f"{len(found)} others" if len(found) > 1 else None
        """,
    ),
    _probe(
        "read-environ",
        "read another process's environment",
        _line('return open("/proc/@victim_pid@/environ").read()'),
        "victim_environ_content",
    ),
    _probe(
        "read-cmdline-of-other",
        "read another process's arguments",
        _line('return open("/proc/@victim_pid@/cmdline").read()'),
        "victim_name",
    ),
    _probe("read-maps", "read another process's memory map",
           _line('return open("/proc/@victim_pid@/maps").read(2000)')),
    _probe(
        "read-memory",
        "read another process's memory",
        """
        def attack(ctx):
            with open("/proc/@victim_pid@/mem", "rb", buffering=0) as memory:
                memory.seek(@victim_address@)
                return memory.read(@victim_length@).decode()
        """,
        "victim_memory_content",
    ),
    _probe(
        "read-descriptor",
        "read a deleted file that another process has open",
        _line('return open("/proc/@victim_pid@/fd/@victim_fd@").read()'),
        "victim_fd_content",
    ),
    _probe(
        "read-cwd",
        "read the secret through another process's working folder",
        _line('return open("/proc/@victim_pid@/cwd/secret").read()'),
        "secret_content",
    ),
    _probe(
        "read-root",
        "read the secret through another process's root",
        _line('return open("/proc/@victim_pid@/root" + @secret@).read()'),
        "secret_content",
    ),
    _probe(
        "process-vm-readv",
        "copy from another process's memory",
        """
        def attack(ctx):
            held = ctypes.create_string_buffer(@victim_length@)
            local = struct.pack("QQ", ctypes.addressof(held), @victim_length@)
            remote = struct.pack("QQ", @victim_address@, @victim_length@)
            syscall("process_vm_readv", @victim_pid@, local, 1, remote, 1, 0)
            return held.raw.decode()
        """,
        "victim_memory_content",
    ),
    _probe(
        "ptrace",
        "trace another process and read its memory",
        """
        def attack(ctx):
            syscall("ptrace", 16, @victim_pid@, 0, 0)
            os.waitpid(@victim_pid@, 0x40000000)
            held = b""
            for offset in range(0, @victim_length@, 8):
                word = ctypes.c_long()
                syscall("ptrace", 2, @victim_pid@, @victim_address@ + offset, ctypes.byref(word))
                held += bytes(word)
            syscall("ptrace", 17, @victim_pid@, 0, 0)
            return held.decode("latin-1")
        """,
        "victim_memory_content",
    ),
    _probe(
        "pidfd-getfd",
        "take a descriptor out of another process",
        """
        def attack(ctx):
            fd = syscall("pidfd_getfd", syscall("pidfd_open", @victim_pid@, 0), @victim_fd@, 0)
            return os.pread(fd, 100, 0).decode()
        """,
        "victim_fd_content",
    ),
    _probe("pidfd-open", "get hold of another process",
           _line('return "pidfd %d" % syscall("pidfd_open", @victim_pid@, 0)')),
    _probe("kcmp", "compare kernel objects of another process",
           _line('return "kcmp %d" % syscall("kcmp", os.getpid(), @victim_pid@, 1, 0, 0)')),
    _probe(
        "get-robust-list",
        "learn an address in another process",
        """
        def attack(ctx):
            head, size = ctypes.c_long(), ctypes.c_long()
            syscall("get_robust_list", @victim_pid@, ctypes.byref(head), ctypes.byref(size))
            return f"{head.value:x}"
        """,
    ),
    _probe("move-pages", "move another process's memory about",
           _line('return "answered %d" % syscall("move_pages", @victim_pid@, 0, 0, 0, 0, 0)')),
    _probe(
        "process-madvise",
        "give advice on another process's memory",
        """
        def attack(ctx):
            fd = syscall("pidfd_open", @victim_pid@, 0)
            where = struct.pack("QQ", @victim_address@ & ~4095, 4096)
            return f"advised {syscall('process_madvise', fd, where, 1, 20, 0)}"
        """,
    ),
    _probe(
        "perf-of-other",
        "count what another process does",
        """
        def attack(ctx):
            attributes = struct.pack("IIQ", 1, 128, 0).ljust(128, b"\\0")
            return f"counter {syscall('perf_event_open', attributes, @victim_pid@, -1, -1, 0)}"
        """,
    ),
    _probe("zygote-memory", "read the zygote's memory map",
           _line('return open(f"/proc/{os.getppid()}/maps").read(2000)')),
    _probe(
        "zygote-channel",
        "take the zygote's own channel to the service",
        """
        def attack(ctx):
            pidfd = syscall("pidfd_open", os.getppid(), 0)
            for number in range(3, 64):
                try:
                    fd = syscall("pidfd_getfd", pidfd, number, 0)
                except OSError as error:
                    if error.errno != errno.EBADF:
                        raise
                    continue
                if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                    return f"descriptor {number}"
        """,
    ),
)

_CHANGES = (
    _harm(
        "process-vm-writev",
        "write into another process's memory",
        """
        def attack(ctx):
            held = ctypes.create_string_buffer(b"overwritten")
            local = struct.pack("QQ", ctypes.addressof(held), 8)
            syscall("process_vm_writev", @victim_pid@, local, 1, struct.pack("QQ", @victim_address@, 8), 1, 0)
        """,
    ),
    _harm(
        "write-memory",
        "write into another process's memory through /proc",
        """
        def attack(ctx):
            with open("/proc/@victim_pid@/mem", "r+b", buffering=0) as memory:
                memory.seek(@victim_address@)
                memory.write(b"over")
        """,
    ),
    _harm("prlimit", "change another process's limits",
          _line("resource.prlimit(@victim_pid@, resource.RLIMIT_NOFILE, (64, 64))")),
    _harm("renice", "change another process's priority", _line("os.setpriority(os.PRIO_PROCESS, @victim_pid@, 7)")),
    _harm("renice-group", "change a process group's priority", _line("os.setpriority(os.PRIO_PGRP, @victim_pid@, 7)")),
    _harm("affinity", "bind another process to one core", _line("os.sched_setaffinity(@victim_pid@, {0})")),
    _harm("scheduler", "let another process run only when all others rest",
          _line("os.sched_setscheduler(@victim_pid@, os.SCHED_IDLE, os.sched_param(0))")),
    _harm("ioprio", "starve another process's input and output",
          _line('syscall("ioprio_set", 1, @victim_pid@, 3 << 13)')),
    _harm("oom-score-of-other", "have the kernel prefer to kill another process",
          _line('open("/proc/@victim_pid@/oom_score_adj", "w").write("900")')),
)

_SIGNALS = (
    _harm("kill-term", "end another process", _line("os.kill(@victim_pid@, signal.SIGTERM)")),
    _harm("kill-stop", "stop another process", _line("os.kill(@victim_pid@, signal.SIGSTOP)")),
    _harm("kill-kill", "kill another process", _line("os.kill(@victim_pid@, signal.SIGKILL)")),
    _harm("kill-group", "end another process group", _line("os.killpg(@victim_pid@, signal.SIGTERM)")),
    _harm("tkill", "end a thread of another process", _line('syscall("tkill", @victim_pid@, 15)')),
    _harm("tgkill", "end a thread of another process group",
          _line('syscall("tgkill", @victim_pid@, @victim_pid@, 15)')),
    _harm("sigqueue", "queue a signal to another process",
          "def attack(ctx):\n    number = 15\n" + _SIGNAL_INFO
          + '    syscall("rt_sigqueueinfo", @victim_pid@, number, info)\n'),
    _harm("tgsigqueue", "queue a signal to a thread of another process",
          "def attack(ctx):\n    number = 15\n" + _SIGNAL_INFO
          + '    syscall("rt_tgsigqueueinfo", @victim_pid@, @victim_pid@, number, info)\n'),
    _harm("pidfd-signal", "end another process by its pidfd",
          _line('syscall("pidfd_send_signal", syscall("pidfd_open", @victim_pid@, 0), 15, 0, 0)')),
    _harm(
        "async-signal",
        "have a pipe send a signal to another process",
        """
        def attack(ctx):
            reader, writer = os.pipe()
            fcntl.fcntl(reader, fcntl.F_SETOWN, @victim_pid@)
            fcntl.fcntl(reader, 10, 15)
            fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)
            os.write(writer, b"x")
            time.sleep(0.1)
        """,
    ),
    # Signal 0 only asks: whoever could be asked could be killed. A real one to all would end the whole machine.
    _probe("kill-everybody", "reach every process with one signal", _line('os.kill(-1, 0); return "reachable"')),
    _probe("kill-service", "reach the service", _line('os.kill(@service_pid@, 0); return "reachable"')),
    _probe("kill-parent-group", "reach the service's process group",
           _line('os.killpg(os.getpgid(@service_pid@), 0); return "reachable"')),
    _probe("kill-zygote", "end the zygote, on which all calls depend", """
        def attack(ctx):
            parent = os.getppid()
            if parent > 1:
                os.kill(parent, signal.SIGKILL)
                time.sleep(2)
            raise ProcessLookupError("no parent to be seen")
        """),
)

ATTACKS = (*_LOOKS, *_CHANGES, *_SIGNALS)
