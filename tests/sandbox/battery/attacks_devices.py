"""Devices, terminals, and the kernel's own files."""

from __future__ import annotations

from tests.sandbox.battery.base import Attack

_DEVICES = (
    "kvm", "fuse", "net/tun", "loop-control", "userfaultfd", "ptmx", "tty0", "hwrng", "vsock", "mem", "port",
    "btrfs-control", "snapshot", "uinput", "vhost-net", "dri/card0", "sda", "vda", "nvme0n1", "mapper/control",
)  # fmt: skip


def _probe(name: str, goal: str, code: str, wants: str | None = None) -> Attack:
    return Attack(name=name, group="devices", goal=goal, code=code, wants=wants)


def _opens(name: str, goal: str, path: str, size: int = 200) -> Attack:
    code = f"""
    def attack(ctx):
        fd = os.open({path}, os.O_RDONLY | os.O_NONBLOCK)
        return os.read(fd, {size}).decode("latin-1") or None
    """
    return _probe(name, goal, code)


def _rewrites(name: str, goal: str, path: str) -> Attack:
    """Writes what it reads, so that the machine stays as it is."""
    code = f"""
    def attack(ctx):
        held = open("{path}").read()
        import re
        chosen = re.search(r"\\[(\\w+)\\]", held)
        open("{path}", "w").write(chosen[1] if chosen else held)
        return "wrote " + held
    """
    return _probe(name, goal, code)


_READ = (
    _probe("read-disk", "read the disk past all file systems", """
        def attack(ctx):
            return f"{len(os.read(os.open(@disk@, os.O_RDONLY), 4096))} bytes of @disk_number@"
        """),
    _probe("make-disk", "make a device file for the disk and read that", """
        def attack(ctx):
            os.mknod("disk", 0o060600, @disk_number@)
            return f"{len(os.read(os.open('disk', os.O_RDONLY), 4096))} bytes"
        """),
    _probe("make-memory", "make a device file for the kernel's messages and open that", """
        def attack(ctx):
            os.mknod("kmsg", 0o020600, os.makedev(1, 11))
            return f"descriptor {os.open('kmsg', os.O_RDONLY | os.O_NONBLOCK)}"
        """),
    _opens("read-kmsg", "read the kernel's messages", '"/dev/kmsg"', 8000),
    _opens("read-memory-device", "read the machine's memory", '"/dev/mem"'),
    _opens("read-kcore", "read the kernel's memory", '"/proc/kcore"'),
    _opens("read-kallsyms", "read the kernel's addresses", '"/proc/kallsyms"'),
    _opens("read-keys", "list the kernel's keys", '"/proc/keys"'),
    _opens("read-modules", "list the kernel's modules", '"/proc/modules"'),
    _opens("read-interrupts", "see when the machine's users press keys", '"/proc/interrupts"'),
    _opens("read-pagemap-of-machine", "read which memory is used for what", '"/proc/kpageflags"'),
    _opens("read-timers", "see the timers of every process", '"/proc/timer_list"'),
    _opens("read-partitions", "see the machine's disks", '"/proc/partitions"'),
    _probe("read-sys-kernel", "look into the kernel's settings",
           'def attack(ctx): return " ".join(os.listdir("/sys/kernel"))'),
    _probe("read-sys-block", "see the machine's disks in /sys",
           'def attack(ctx): return " ".join(os.listdir("/sys/block"))'),
    _probe("read-sys-cgroup", "see the machine's control groups",
           'def attack(ctx): return " ".join(os.listdir("/sys/fs/cgroup"))'),
    _probe("read-sysctl", "read the kernel's settings",
           'def attack(ctx): return open("/proc/sys/kernel/core_pattern").read()'),
    _probe(
        "open-devices",
        "open any device that is more than a source of zeros or noise",
        f"""
        def attack(ctx):
            opened = []
            for name in {_DEVICES}:
                try:
                    os.close(os.open("/dev/" + name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
                    opened.append(name)
                except OSError:
                    continue
            return " ".join(opened)
        """,
    ),
)

_TERMINAL = (
    Attack(
        name="terminal-write",
        group="devices",
        goal="write to somebody's terminal",
        code="def attack(ctx): os.write(os.open(@terminal@, os.O_WRONLY | os.O_NOCTTY), b'x')",
        after="terminal",
    ),
    Attack(
        name="terminal-type",
        group="devices",
        goal="type into somebody's terminal",
        code="""
        def attack(ctx):
            import termios
            fcntl.ioctl(os.open(@terminal@, os.O_RDWR | os.O_NOCTTY), termios.TIOCSTI, b"x")
        """,
        after="terminal",
    ),
)

_WRITE = (
    _rewrites("write-sysctl", "change the kernel's settings", "/proc/sys/vm/swappiness"),
    _rewrites("write-core-pattern", "have the kernel run a program at the next crash", "/proc/sys/kernel/core_pattern"),
    _rewrites("write-own-oom-score", "be spared when memory runs out", "/proc/self/oom_score_adj"),
    _rewrites("write-sys", "change the kernel's settings in /sys", "/sys/kernel/mm/transparent_hugepage/enabled"),
    _probe("open-sysrq", "get at the key combination that restarts the machine",
           'def attack(ctx): return "descriptor %d" % os.open("/proc/sysrq-trigger", os.O_WRONLY)'),
    _probe(
        "cgroup-move",
        "leave the control group that limits the process",
        """
        def attack(ctx):
            import glob
            last = FileNotFoundError("no control group is to be seen")
            for path in glob.glob("/sys/fs/cgroup/cgroup.procs") + glob.glob("/sys/fs/cgroup/*/cgroup.procs"):
                try:
                    os.write(os.open(path, os.O_WRONLY), b"0")
                    return path
                except OSError as error:
                    last = error
            raise last
        """,
    ),
    _probe(
        "cgroup-make",
        "make a control group",
        """
        def attack(ctx):
            import glob
            last = FileNotFoundError("no control group is to be seen")
            for path in glob.glob("/sys/fs/cgroup/cgroup.procs") + glob.glob("/sys/fs/cgroup/*/cgroup.procs"):
                place = os.path.join(os.path.dirname(path), @mark@)
                try:
                    os.mkdir(place)
                    os.rmdir(place)
                    return place
                except OSError as error:
                    last = error
            raise last
        """,
    ),
)

ATTACKS = (*_READ, *_TERMINAL, *_WRITE)
