"""Corners of the kernel that no codec needs, where its bugs have been."""

from __future__ import annotations

from tests.sandbox.battery.base import Attack


def _probe(name: str, goal: str, code: str) -> Attack:
    return Attack(name=name, group="kernel", goal=goal, code=code)


def _reached(name: str, goal: str, arguments: str) -> Attack:
    """Made so that it cannot succeed, with arguments that mean nothing: any answer but a refusal is too much."""
    return _probe(name, goal, f"def attack(ctx): return reached({arguments})")


def _made(name: str, goal: str, arguments: str) -> Attack:
    return _probe(name, goal, f'def attack(ctx): return "descriptor %d" % syscall({arguments})')


_ZEROS = "b'\\0' * 128"

_CALLS = (
    _made("io-uring", "have the kernel make calls past every filter", f"'io_uring_setup', 4, {_ZEROS}"),
    _reached("bpf", "load a program into the kernel", "'bpf', 9999, b'\\0' * 128, 128"),
    _made("bpf-map", "make a map for programs in the kernel",
          "'bpf', 0, struct.pack('5I', 2, 4, 4, 1, 0).ljust(128, b'\\0'), 128"),
    _made("userfaultfd", "stop the kernel at a page of one's own", "'userfaultfd', 0o2000000 | 1"),
    _made("perf-event", "measure the machine's caches and clocks",
          "'perf_event_open', struct.pack('IIQ', 1, 128, 0).ljust(128, b'\\0'), 0, -1, -1, 0"),
    _reached("add-key", "keep a key in the kernel after the call", "'add_key', b'user', b'bl', b'x', 1, -2"),
    _reached("request-key", "ask for the service's keys", "'request_key', b'user', b'bl-none', 0, 0"),
    _reached("keyctl", "read the service's key rings", "'keyctl', 0, -3, 0, 0, 0"),
    _made("fanotify", "be told of every file that anybody opens", "'fanotify_init', 0, 0"),
    _made("memfd", "make files in memory that no limit counts", "'memfd_create', b'x', 0"),
    _reached("memfd-secret", "make memory that the service cannot see", "'memfd_secret', 0"),
    _made("landlock", "pile up rules in the kernel", "'landlock_create_ruleset', struct.pack('Q', 1), 8, 0"),
    _reached("modify-ldt", "change the processor's tables", "'modify_ldt', 0, b'\\0' * 64, 64"),
    _reached("migrate-pages", "move memory between nodes", "'migrate_pages', 0, 0, 0, 0"),
    _reached("process-mrelease", "take a dying process's memory", "'process_mrelease', -1, 0"),
    _reached("quotactl", "change the disk's quotas", "'quotactl', 0x800001 << 8, 0, 0, 0"),
    _reached("personality", "switch off the random placement of memory", "'personality', 0x0040000"),
    _probe(
        "kernel-log",
        "read the kernel's messages",
        """
        def attack(ctx):
            held = ctypes.create_string_buffer(4096)
            return f"{syscall('syslog', 3, held, 4096)} bytes"
        """,
    ),
    _probe(
        "huge-priority",
        "run before everybody else",
        """
        def attack(ctx):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            return "real-time"
        """,
    ),
    _probe("lower-niceness", "run before others of the same user", """
        def attack(ctx):
            os.setpriority(os.PRIO_PROCESS, 0, -5)
            return "niceness -5"
        """),
    _probe("async-io", "have the kernel start threads for input and output", """
        def attack(ctx):
            context = ctypes.c_ulong(0)
            syscall(206, 128, ctypes.byref(context))
            return f"context {context.value:x}"
        """),
    _probe("lock-memory", "keep memory from being taken back", """
        def attack(ctx):
            syscall("mlockall", 2)
            syscall("munlockall")
            return "locked"
        """),
    _probe("seccomp-listener", "put a filter of one's own in the way", """
        def attack(ctx):
            program = struct.pack("HBBI", 6, 0, 0, 0x7FFF0000)
            held = ctypes.create_string_buffer(program, 8)
            about = struct.pack("HxxxxxxQ", 1, ctypes.addressof(held))
            return "listener %d" % syscall(317, 1, 8, about)
        """),
)

_SYSTEM = (
    _reached("reboot", "restart the machine", "'reboot', 1, 2, 3, 0"),
    _reached("kexec", "start another kernel", "'kexec_load', 0, 99, 0, 0"),
    _reached("init-module", "load a module into the kernel", "'init_module', b'garbage', 7, b''"),
    _reached("finit-module", "load a module from a file", "'finit_module', -1, b'', 0"),
    _reached("delete-module", "take a module out of the kernel", "'delete_module', b'bl_none', 0o4000"),
    _reached("swap-on", "have memory written to a file", "'swapon', b'/nonexistent', 0"),
    _reached("account", "write down all processes that end", "'acct', b'/nonexistent'"),
    _made("set-host-name", "change the machine's name", "'sethostname', @hostname@.encode(), len(@hostname@)"),
    _probe(
        "set-clock",
        "set the machine's clock",
        """
        def attack(ctx):
            now = time.clock_gettime(time.CLOCK_REALTIME)
            syscall("clock_settime", 0, struct.pack("qq", int(now), int(now % 1 * 1e9)))
            return "set to what it was"
        """,
    ),
    _probe(
        "adjust-clock",
        "have the machine's clock run faster or slower",
        """
        def attack(ctx):
            held = ctypes.create_string_buffer(208)
            syscall("adjtimex", held)
            # The field of modes comes first; 0x4000 sets the length of a tick, to what it is.
            struct.pack_into("I", held, 0, 0x4000)
            return f"answered {syscall('adjtimex', held)}"
        """,
    ),
    _reached("port-access", "talk to hardware directly", "'iopl', 3"),
    _reached("port-range", "talk to a piece of hardware directly", "'ioperm', 0x80, 1, 1"),
)

ATTACKS = (*_CALLS, *_SYSTEM)
