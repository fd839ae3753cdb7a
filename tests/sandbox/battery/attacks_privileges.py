"""Mounts, namespaces, users and capabilities; and the layers themselves, which one may try to take off."""

from __future__ import annotations

from tests.sandbox.battery.base import Attack


def _probe(name: str, goal: str, code: str) -> Attack:
    return Attack(name=name, group="privileges", goal=goal, code=code)


def _reached(name: str, goal: str, arguments: str) -> Attack:
    return _probe(name, goal, f"def attack(ctx): return reached({arguments})")


_STATUS = """
def status(name):
    return dict(line.split(":", 1) for line in open("/proc/self/status"))[name].strip()
"""

_MOUNTS = (
    _probe(
        "mount",
        "mount a file system",
        """
        def attack(ctx):
            os.mkdir("place")
            where = os.path.abspath("place").encode()
            syscall("mount", b"none", where, b"tmpfs", 0, b"size=4096")
            syscall("umount2", where, 2)
            return "mounted"
        """,
    ),
    _probe(
        "bind-mount",
        "mount a folder of the host in the scratch",
        """
        def attack(ctx):
            os.mkdir("place")
            where = os.path.abspath("place").encode()
            syscall("mount", @folder@.encode(), where, b"", 4096, 0)
            try:
                return " ".join(os.listdir("place"))
            finally:
                syscall("umount2", where, 2)
        """,
    ),
    _probe(
        "mount-proc",
        "mount a fresh /proc with all processes in it",
        """
        def attack(ctx):
            os.mkdir("place")
            where = os.path.abspath("place").encode()
            syscall("mount", b"proc", where, b"proc", 0, 0)
            try:
                return open("place/uptime").read()
            finally:
                syscall("umount2", where, 2)
        """,
    ),
    _probe("mount-by-descriptor", "prepare a file system by the newer calls",
           'def attack(ctx): return "descriptor %d" % syscall("fsopen", b"tmpfs", 0)'),
    _probe("open-tree", "take a copy of the host's folders",
           'def attack(ctx): return "descriptor %d" % syscall("open_tree", -100, b"/", 1)'),
    _reached("mount-setattr", "make a read-only folder writable",
             "'mount_setattr', -100, b'/nonexistent', 0, b'\\0' * 32, 32"),
    _reached("umount", "take away what hides the host's folders", "'umount2', b'/nonexistent', 2"),
    _reached("remount", "make a read-only folder writable", "'mount', 0, b'/nonexistent', 0, 32 | 4096, 0"),
    _reached("pivot-root", "change the root of the whole namespace", "'pivot_root', b'/nonexistent', b'/nonexistent'"),
    _probe("chroot", "change the root of the process", """
        def attack(ctx):
            os.chroot(".")
            return "changed"
        """),
    _probe(
        "chroot-escape",
        "climb out of the root by a folder that is outside of a new one",
        """
        def attack(ctx):
            os.mkdir("below")
            os.chroot("below")
            for _ in range(40):
                os.chdir("..")
            os.chroot(".")
            return open(@secret@).read()
        """,
    ),
)

_NAMESPACES = (
    _probe(
        "user-namespace",
        "become root in a namespace of one's own",
        """
        def attack(ctx):
            uid = os.getuid()
            syscall("unshare", 0x10000000)
            open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
            return f"uid {os.getuid()}"
        """,
    ),
    _probe("unshare-mounts", "have mounts of one's own",
           'def attack(ctx): return "answered %d" % syscall("unshare", 0x20000)'),
    _probe("unshare-network", "have a network of one's own",
           'def attack(ctx): return "answered %d" % syscall("unshare", 0x40000000)'),
    _probe("unshare-cgroup", "have control groups of one's own",
           'def attack(ctx): return "answered %d" % syscall("unshare", 0x2000000)'),
    *(
        _probe(
            f"enter-{kind}",
            f"enter the {kind} namespace of the first process or of the service",
            f"""
            def attack(ctx):
                for pid in (1, @service_pid@):
                    try:
                        return "answered %d" % syscall("setns", os.open(f"/proc/{{pid}}/ns/{kind}", os.O_RDONLY), 0)
                    except OSError as error:
                        last = error
                raise last
            """,
        )
        for kind in ("mnt", "net", "pid", "ipc", "uts", "cgroup")
    ),
    _probe(
        "enter-by-pidfd",
        "enter all namespaces of another process at once",
        """
        def attack(ctx):
            return "answered %d" % syscall("setns", syscall("pidfd_open", @victim_pid@, 0), 0x40000000 | 0x8000000)
        """,
    ),
)

_POWERS = (
    _probe("become-root", "become root again", """
        def attack(ctx):
            os.setresuid(0, 0, 0)
            return f"uid {os.getuid()}"
        """),
    _probe("become-root-group", "join root's group again", """
        def attack(ctx):
            os.setgroups([0])
            return f"groups {os.getgroups()}"
        """),
    _probe("become-another", "become the user of other programs", """
        def attack(ctx):
            os.setresuid(12345, 12345, 12345)
            return f"uid {os.getuid()}"
        """),
    _probe(
        "keep-capabilities",
        "hold any capability",
        _STATUS
        + """
def attack(ctx):
    held = [name for name in ("CapPrm", "CapEff", "CapAmb", "CapInh") if int(status(name), 16)]
    return " ".join(held)
""",
    ),
    _probe(
        "raise-capabilities",
        "take capabilities back",
        """
        def attack(ctx):
            header = struct.pack("Ii", 0x20080522, 0)
            held = ctypes.create_string_buffer(24)
            syscall("capget", header, held)
            effective, permitted, _, *rest = struct.unpack("6I", held.raw)
            wanted = permitted | 1 << 21
            syscall("capset", header, struct.pack("6I", wanted, wanted, 0, *rest))
            return f"capabilities {wanted:x}"
        """,
    ),
    _probe("outlive-parent", "live on when the service ends", """
        def attack(ctx):
            _libc.prctl(1, 0, 0, 0, 0)
            held = ctypes.c_int(-1)
            _libc.prctl(2, ctypes.byref(held), 0, 0, 0)
            return "no signal at the parent's death" if held.value == 0 else None
        """),
    _probe("no-filter", "be without a filter of calls, or take it off",
           _STATUS + """
def attack(ctx):
    _libc.prctl(22, 0, 0, 0, 0)
    return "no filter" if status("Seccomp") == "0" else None
"""),
    _probe("new-privileges", "be able to gain privileges by a program that grants them",
           _STATUS + """
def attack(ctx):
    _libc.prctl(38, 0, 0, 0, 0)
    return "they can be gained" if status("NoNewPrivs") == "0" else None
"""),
    _probe("ptrace-me", "be traced by the parent", 'def attack(ctx): return reached("ptrace", 0, 0, 0, 0)'),
    *(
        _probe(
            f"raise-{name}",
            f"raise a limit of one's own: {name}",
            f"""
            def attack(ctx):
                resource.setrlimit(resource.{limit}, ({value}, {value}))
                return "limit {value}"
            """,
        )
        for name, limit, value in (
            ("core-limit", "RLIMIT_CORE", 1 << 20),
            ("file-limit", "RLIMIT_NOFILE", 4000),
            ("size-limit", "RLIMIT_FSIZE", 1 << 40),
            ("memory-limit", "RLIMIT_AS", 1 << 40),
            ("cpu-limit", "RLIMIT_CPU", 100_000),
            ("queue-limit", "RLIMIT_MSGQUEUE", 800_000),
            ("locked-limit", "RLIMIT_MEMLOCK", 1 << 20),
        )
    ),
)

ATTACKS = (*_MOUNTS, *_NAMESPACES, *_POWERS)
