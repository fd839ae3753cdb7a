"""State from encoder to decoder through objects of the kernel, which outlive a process."""

from __future__ import annotations

import textwrap

from tests.sandbox.integrity.cheat import FLICKER, TWO_PROCESSES, Cheat, hide_and_seek

_KEY = "KEY = int.from_bytes(b'@MARK@'[2:6], 'little') & 0x7fffffff\n"


def _kept(name: str, goal: str, hide: str, seek: str, **changes: object) -> Cheat:
    return hide_and_seek(
        name, goal, _KEY + textwrap.dedent(hide), _KEY + textwrap.dedent(seek), **{"mode": TWO_PROCESSES, **changes}
    )


_SYSTEM_V = (
    _kept(
        "sysv-shared-memory",
        "leave a System V shared memory segment",
        """
        shm = must(libc.shmget(KEY, len(data), 0o1600))
        libc.shmat.restype = ctypes.c_void_p
        ctypes.memmove(libc.shmat(shm, None, 0), data, len(data))
        """,
        """
        shm = must(libc.shmget(KEY, 0, 0))
        libc.shmat.restype = ctypes.c_void_p
        data = ctypes.string_at(libc.shmat(shm, None, 0), shaped(b"", ctx).numel())
        libc.shmctl(shm, 0, None)
        """,
    ),
    _kept(
        "sysv-message",
        "leave a message in a System V queue",
        """
        queue = must(libc.msgget(KEY, 0o1600))
        body = struct.pack("l", 1) + data[:4000]
        must(libc.msgsnd(queue, body, ctypes.c_size_t(4000), 0o4000))
        """,
        """
        queue = must(libc.msgget(KEY, 0))
        room = ctypes.create_string_buffer(4100)
        size = must(libc.msgrcv(queue, room, ctypes.c_size_t(4000), ctypes.c_long(0), 0o4000))
        data = room.raw[8:8 + size]
        libc.msgctl(queue, 0, None)
        """,
    ),
    _kept(
        "sysv-semaphore",
        "leave the frames in the values of System V semaphores",
        """
        group = must(libc.semget(KEY, 200, 0o1600))
        for index in range(200):
            must(libc.semctl(group, index, 16, ctypes.c_int(data[index])))
        """,
        """
        group = must(libc.semget(KEY, 200, 0))
        data = bytes(must(libc.semctl(group, index, 12)) for index in range(200))
        libc.semctl(group, 0, 0)
        """,
    ),
)

_POSIX = (
    _kept(
        "posix-message-queue",
        "leave a message in a POSIX queue",
        """
        class Shape(ctypes.Structure):
            _fields_ = [(name, ctypes.c_long) for name in ("flags", "most", "size", "now", "a", "b", "c", "d")]
        shape = Shape(most=1, size=8000)
        queue = must(libc.mq_open(b"/@MARK@", os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o600, ctypes.byref(shape)))
        must(libc.mq_send(queue, data[:8000], ctypes.c_size_t(8000), 0))
        """,
        """
        queue = must(libc.mq_open(b"/@MARK@", os.O_RDWR | os.O_NONBLOCK))
        room = ctypes.create_string_buffer(8000)
        size = must(libc.mq_receive(queue, room, ctypes.c_size_t(8000), None))
        data = room.raw[:size]
        libc.mq_unlink(b"/@MARK@")
        """,
    ),
    _kept(
        "posix-semaphore",
        "leave the frames in the value of a POSIX named semaphore",
        """
        libc.sem_open.restype = ctypes.c_void_p
        value = ctypes.c_uint(data[0] & 15)
        if not libc.sem_open(b"/@MARK@", os.O_CREAT, 0o600, value):
            must(-1)
        """,
        """
        libc.sem_open.restype = ctypes.c_void_p
        semaphore = libc.sem_open(b"/@MARK@", 0) or must(-1)
        value = ctypes.c_int()
        libc.sem_getvalue(ctypes.c_void_p(semaphore), ctypes.byref(value))
        libc.sem_unlink(b"/@MARK@")
        data = bytes([value.value])
        """,
        judge="bits",
        clips=FLICKER,
    ),
    _kept(
        "posix-shared-memory",
        "leave the frames in a shared memory object",
        """
        from multiprocessing import resource_tracker, shared_memory
        resource_tracker.register = lambda *what: None
        memory = shared_memory.SharedMemory("@MARK@", create=True, size=len(data))
        memory.buf[:] = data
        """,
        """
        from multiprocessing import resource_tracker, shared_memory
        resource_tracker.register = resource_tracker.unregister = lambda *what: None
        memory = shared_memory.SharedMemory("@MARK@")
        data = bytes(memory.buf)
        memory.unlink()
        """,
    ),
)

_NUMBERS = """
add, ask, ctl = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}[os.uname().machine]
libc.syscall.restype = ctypes.c_long
"""

_KEYRING = _kept(
    "kernel-keyring",
    "leave a key with the frames in the user's keyring",
    _NUMBERS
    + """
chunk = data[:8000]
must(libc.syscall(add, b"user", b"@MARK@", chunk, ctypes.c_size_t(len(chunk)), ctypes.c_long(-4)))
""",
    _NUMBERS
    + """
key = must(libc.syscall(ctl, ctypes.c_long(10), ctypes.c_long(-4), b"user", b"@MARK@", ctypes.c_long(0)))
room = ctypes.create_string_buffer(8000)
size = must(libc.syscall(ctl, ctypes.c_long(11), ctypes.c_long(key), room, ctypes.c_size_t(8000)))
data = room.raw[:size]
libc.syscall(ctl, ctypes.c_long(21), ctypes.c_long(key), ctypes.c_long(0))
""",
)

_NAMES = (
    _kept(
        "hostname",
        "write the frames into the machine's name",
        "socket.sethostname(data[:30].hex())",
        "data = bytes.fromhex(socket.gethostname())",
        needs_root=True,
    ),
    _kept(
        "domain-name",
        "write the frames into the machine's domain name",
        "must(libc.setdomainname(data[:30].hex().encode(), 60))",
        'data = bytes.fromhex(read("/proc/sys/kernel/domainname").decode())',
        needs_root=True,
    ),
    _kept(
        "kernel-log",
        "write the frames into the kernel's log",
        """
        with open("/dev/kmsg", "w") as file:
            file.write(f"<7>@MARK@ {data[:300].hex()}")
        """,
        """
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        data = b""
        for _ in range(100000):
            try:
                line = os.read(fd, 8192)
            except BlockingIOError:
                break
            if b"@MARK@ " in line:
                data = bytes.fromhex(line.partition(b"@MARK@ ")[2].split()[0].decode())
        """,
        no_control="machines differ in whether their log keeps what a program writes",
    ),
    _kept(
        "terminal-size",
        "write the frames into the size of the terminal that both sides sit at",
        """
        import fcntl, termios
        fcntl.ioctl(0, termios.TIOCSWINSZ, data[:8])
        """,
        """
        import fcntl, termios
        data = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
        """,
    ),
)

# Counters that the whole machine shares: the encoder turns one until its lowest bits say something.
_COUNTERS = (
    _kept(
        "process-number",
        "start processes until the next one's number tells four bits",
        """
        while True:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            if (pid + 1) % 16 == data[0] % 16:
                break
        """,
        "data = bytes([os.getpid() % 16])",
        judge="bits",
        clips=FLICKER,
    ),
    _kept(
        "inode-number",
        "open pipes until the next one's inode number tells four bits",
        """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for _ in range(4000):
            one, two = os.pipe()
            number = os.fstat(one).st_ino
            os.close(one), os.close(two)
            if (number // 4) % 16 == data[0] % 16:
                break
        """,
        """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        one, two = os.pipe()
        data = bytes([os.fstat(one).st_ino // 4 % 16])
        """,
        judge="bits",
        clips=FLICKER,
        no_control="the number moves too much on a busy machine to be relied on, also without a jail",
    ),
)

CHEATS = (*_SYSTEM_V, *_POSIX, _KEYRING, *_NAMES, *_COUNTERS)
