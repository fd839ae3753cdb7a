"""State from encoder to decoder through other processes: daemons that serve it, threads, and the parent."""

from __future__ import annotations

import textwrap

from tests.sandbox.integrity.cheat import FLICKER, ONE_PROCESS, TWO_PROCESSES, Cheat, hide_and_seek

# Leaves its parent, session and group; ends by itself after a while.
_DAEMON = """
def daemon(serve):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(8)
            attempt(serve)
        os._exit(0)
    os.waitpid(pid, 0)

def hand_out(listener, data):
    def serve():
        while True:
            peer, _ = listener.accept()
            peer.sendall(data)
            peer.close()
    return serve

def fetch(family, address):
    peer = socket.socket(family)
    peer.settimeout(1)
    peer.connect(address)
    parts = []
    while part := peer.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)

def listen(family, address):
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()
    return listener

PORT = 20000 + int("@MARK@"[2:6], 16) % 20000
"""


def _served(name: str, goal: str, hide: str, seek: str, mode: str = TWO_PROCESSES) -> Cheat:
    return hide_and_seek(name, goal, hide, seek, helpers=_DAEMON, mode=mode)


_SOCKETS = {
    "abstract-socket": ("socket.AF_UNIX", "'\\0@MARK@'"),
    "path-socket": ("socket.AF_UNIX", "'/tmp/@MARK@.sock'"),
    "tcp-loopback": ("socket.AF_INET", "('127.0.0.1', PORT)"),
    "tcp6-loopback": ("socket.AF_INET6", "('::1', PORT)"),
}

_DAEMONS = tuple(
    _served(
        f"daemon-{name}",
        "leave a daemon that hands out the frames",
        f"daemon(hand_out(listen({family}, {address}), data))",
        f"data = fetch({family}, {address})",
    )
    for name, (family, address) in _SOCKETS.items()
)

_OTHERS = (
    _served(
        "daemon-datagrams",
        "leave a daemon that answers datagrams",
        """
        box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        box.bind(("127.0.0.1", PORT))
        def serve():
            while True:
                _, peer = box.recvfrom(10)
                box.sendto(data, peer)
        daemon(serve)
        """,
        """
        box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        box.settimeout(1)
        box.sendto(b"x", ("127.0.0.1", PORT))
        data = box.recv(1 << 16)
        """,
    ),
    _served(
        "daemon-pipe",
        "leave a daemon that writes into a named pipe",
        """
        os.mkfifo("/tmp/@MARK@.pipe")
        daemon(lambda: write("/tmp/@MARK@.pipe", data))
        """,
        """
        fd = os.open("/tmp/@MARK@.pipe", os.O_RDONLY | os.O_NONBLOCK)
        time.sleep(0.1)
        data = b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
        os.unlink("/tmp/@MARK@.pipe")
        """,
    ),
    _served(
        "daemon-memfd",
        "leave a daemon that passes on a memfd",
        """
        fd = os.memfd_create("kept")
        os.write(fd, data)
        listener = listen(socket.AF_UNIX, "\\0@MARK@m")
        def serve():
            peer, _ = listener.accept()
            socket.send_fds(peer, [b"x"], [fd])
            time.sleep(5)
        daemon(serve)
        """,
        """
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(1)
        peer.connect("\\0@MARK@m")
        _, (fd,), _, _ = socket.recv_fds(peer, 1, 1)
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        """,
    ),
    _served(
        "daemon-descriptor",
        "leave a daemon whose open memfd the decoder finds in /proc",
        """
        fd = os.memfd_create("@MARK@")
        os.write(fd, data)
        daemon(lambda: time.sleep(5))
        """,
        """
        data = b""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for fd in attempt(lambda: os.listdir(f"/proc/{pid}/fd"), []):
                path = f"/proc/{pid}/fd/{fd}"
                if "@MARK@" in attempt(lambda: os.readlink(path), ""):
                    data = read(path)
        """,
    ),
    _served(
        "daemon-arguments",
        "leave a process whose command line is the frames",
        """
        code = "import time; time.sleep(5)"
        import subprocess
        subprocess.Popen([sys.executable, "-S", "-c", code, "@MARK@", data[:4000].hex()], start_new_session=True)
        time.sleep(0.1)
        """,
        """
        data = b""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            words = attempt(lambda: read(f"/proc/{pid}/cmdline"), b"").split(b"\\0")
            if b"@MARK@" in words:
                data = bytes.fromhex(words[words.index(b"@MARK@") + 1].decode())
        """,
    ),
    _served(
        "daemon-memory",
        "leave a daemon and read its memory",
        """
        import mmap
        room = mmap.mmap(-1, len(data) + 64)
        room[:] = b"@MARK@".ljust(64) + data
        def serve():
            libc.prctl(15, b"@MARK@", 0, 0, 0)
            libc.prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)
            time.sleep(5)
        daemon(serve)
        time.sleep(0.05)
        """,
        """
        data = b""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if attempt(lambda: read(f"/proc/{pid}/comm"), b"").strip() != b"@MARK@":
                continue
            for line in read(f"/proc/{pid}/maps").splitlines():
                start, end = (int(word, 16) for word in line.split()[0].split(b"-"))
                if b"rw-s" in line and end - start < 1 << 20:
                    with open(f"/proc/{pid}/mem", "rb", 0) as file:
                        file.seek(start)
                        found = file.read(end - start)
                    data = found[64:] if found.startswith(b"@MARK@") else data
        """,
    ),
    _served(
        "daemon-locks",
        "leave a daemon whose record locks on a file are the frames' bits",
        """
        import fcntl
        file = open([path for path in @SHARED@ if os.path.exists(path)][0], "rb")
        def serve():
            for bit in range(96):
                if data[bit // 8] >> bit % 8 & 1:
                    fcntl.lockf(file, fcntl.LOCK_SH, 1, 5000 + bit)
            time.sleep(5)
        daemon(serve)
        time.sleep(0.05)
        """,
        """
        import fcntl
        bits = []
        file = open([path for path in @SHARED@ if os.path.exists(path)][0], "rb")
        for bit in range(96):
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 5000 + bit, 1, 0)
            kind = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0]
            bits.append(kind != fcntl.F_UNLCK)
        data = bytes(sum(bits[at + bit] << bit for bit in range(8)) for at in range(0, 96, 8))
        """,
    ),
    _served(
        "child-left-running",
        "return while a child of one's own still serves the frames",
        """
        listener = listen(socket.AF_UNIX, "\\0@MARK@c")
        if os.fork() == 0:
            signal.alarm(8)
            attempt(hand_out(listener, data))
            os._exit(0)
        """,
        'data = fetch(socket.AF_UNIX, "\\0@MARK@c")',
    ),
    _served(
        "thread-left-running",
        "return while a thread still serves the frames",
        """
        listener = listen(socket.AF_UNIX, "\\0@MARK@t")
        threading.Thread(target=hand_out(listener, data), daemon=True).start()
        """,
        'data = fetch(socket.AF_UNIX, "\\0@MARK@t")',
        mode=ONE_PROCESS,
    ),
)

# The process that both were forked from, by the number that /proc shows. Its memory lies where ours does.
_PARENT = """
PARENT = int(read("/proc/self/stat").rpartition(b")")[2].split()[1]) or os.getppid()

def place():
    text = numpy.__doc__
    return id(text) + sys.getsizeof(text) - len(text) - 1
"""

_MEMORY = {
    "mem": """
        with open(f"/proc/{PARENT}/mem", "r+b", 0) as file:
            file.seek(address)
            file.write(data[:size])
        """,
    "process-vm": """
        class Vector(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
        room = ctypes.create_string_buffer(data[:size])
        here, there = Vector(ctypes.addressof(room), size), Vector(address, size)
        must(libc.process_vm_writev(PARENT, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
        """,
    "ptrace": """
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        must(libc.ptrace(0x4206, PARENT, None, None))
        must(libc.ptrace(0x4207, PARENT, None, None))
        os.waitpid(PARENT, 0x40000000)
        for at in range(0, 64, 8):
            libc.ptrace(4, PARENT, address + at, int.from_bytes(data[at:at + 8], "little"))
        libc.ptrace(17, PARENT, None, None)
        """,
}

_IN_PARENT = tuple(
    hide_and_seek(
        f"parent-memory-{name}",
        "write the frames over a text in the parent's memory, from which the decoder will be forked",
        # Each at another place, so that none finds what another has left.
        f"address, size = place() + {128 * index}, 64\n" + textwrap.dedent(write),
        f"data = ctypes.string_at(place() + {128 * index}, 64)",
        helpers=_PARENT,
        mode=TWO_PROCESSES,
        needs_root=True,
    )
    for index, (name, write) in enumerate(_MEMORY.items())
)

# (what the encoder sets on the parent, what the decoder, its next child, then reads): four bits each.
_SETTINGS = {
    "nice": ("os.setpriority(os.PRIO_PROCESS, PARENT, value)", "os.getpriority(os.PRIO_PROCESS, 0)"),
    "nice-of-group": ("os.setpriority(os.PRIO_PGRP, os.getpgid(PARENT), value)", "os.getpriority(os.PRIO_PROCESS, 0)"),
    "rlimit": (
        "import resource; resource.prlimit(PARENT, resource.RLIMIT_RTTIME, (1000 + value, resource.RLIM_INFINITY))",
        "__import__('resource').getrlimit(__import__('resource').RLIMIT_RTTIME)[0] - 1000",
    ),
    "oom-score": (
        'write(f"/proc/{PARENT}/oom_score_adj", str(value).encode())',
        'int(read("/proc/self/oom_score_adj"))',
    ),
    "coredump-filter": (
        'write(f"/proc/{PARENT}/coredump_filter", hex(value).encode())',
        'int(read("/proc/self/coredump_filter"), 16)',
    ),
    "timer-slack": (
        'write(f"/proc/{PARENT}/timerslack_ns", str(value + 50000).encode())',
        'int(read(f"/proc/{PARENT}/timerslack_ns")) - 50000',
    ),
}


def _setting(name: str, change: str, look: str) -> Cheat:
    return hide_and_seek(
        f"parent-{name}",
        "change a setting of the parent that its next child inherits",
        f"value = data[0] & 15\n{change}",
        f"data = bytes([({look}) & 15])",
        helpers=_PARENT,
        mode=TWO_PROCESSES,
        # The others may be raised only, or only by who may trace the parent.
        needs_root=name not in ("rlimit", "oom-score", "coredump-filter"),
        judge="bits",
        clips=FLICKER,
    )


_BY_SETTING = tuple(_setting(name, *both) for name, both in _SETTINGS.items())

CHEATS = (*_DAEMONS, *_OTHERS, *_IN_PARENT, *_BY_SETTING)
