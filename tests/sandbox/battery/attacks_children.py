"""New processes and other programs."""

from __future__ import annotations

from tests.sandbox.battery.base import Attack

# Ends the child at once; the parent tells.
_FORKED = """
def attack(ctx):
    pid = {call}
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0x40000000)
    return f"child {{pid}}"
"""

# A static program of 120 bytes of headers and a few instructions: it writes "elf-42" to its log and ends.
_PROGRAM = """
def program():
    text = b"elf-42\\n"
    code = bytes.fromhex("b801000000bf02000000488d3510000000ba070000000f05b83c00000031ff0f05")
    # lea rsi reaches from its own end to the text behind the code.
    lea_end = 10 + 7
    code = code[:13] + struct.pack("<i", len(code) - lea_end) + code[17:]
    base, offset = 0x400000, 120
    size = offset + len(code) + len(text)
    head = b"\\x7fELF\\x02\\x01\\x01".ljust(16, b"\\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + offset, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    return head + code + text
"""


def _probe(name: str, goal: str, code: str) -> Attack:
    return Attack(name=name, group="children", goal=goal, code=code)


def _fork(name: str, goal: str, call: str) -> Attack:
    return _probe(name, goal, _FORKED.format(call=call))


def _exec(name: str, goal: str, code: str, log: str) -> Attack:
    return Attack(name=name, group="children", goal=goal, code=code, log=log)


def _by_code(name: str, goal: str, hexadecimal: str, note: str = "child") -> Attack:
    """The call is made by instructions of our own; a refusal is a small negative number."""
    code = f"""
    def attack(ctx):
        answer = machine(bytes.fromhex("{hexadecimal}"))()
        if -200 < answer < 0:
            raise OSError(-answer, os.strerror(-answer))
        if answer > 0 and "{note}" == "child":
            os.waitpid(answer, 0x40000000)
        return f"{note} {{answer}}"
    """
    return _probe(name, goal, code)


_CLONE3 = "syscall('clone3', struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64)"

_FORKS = (
    _fork("fork", "start a process", "os.fork()"),
    _fork("fork-call", "start a process by the call fork", "syscall('fork')"),
    _fork("clone-call", "start a process by the call clone", "syscall('clone', 17, 0, 0, 0, 0)"),
    _fork("clone3-call", "start a process by the call clone3", _CLONE3),
    _fork("clone-user-namespace", "start a process with powers of its own",
          "syscall('clone', 17 | 0x10000000, 0, 0, 0, 0)"),
    _fork("fork-terminal", "start a process with a terminal", "os.forkpty()[0]"),
    # mov eax, 58; syscall; test eax, eax; jnz +9; mov eax, 60; xor edi, edi; syscall; ret
    _by_code("vfork-call", "start a process by the call vfork", "b83a0000000f0585c07509b83c00000031ff0f05c3"),
    # mov eax, 2; int 0x80; test eax, eax; jnz +9; mov eax, 1; xor ebx, ebx; int 0x80; ret  (rbx is kept)
    _by_code("int80-fork", "start a process by the 32-bit entry, where 2 is fork",
             "53b802000000cd8085c07509b80100000031dbcd805bc3"),
    _by_code("int80-call", "make any call by the 32-bit entry", "b814000000cd80c3", "pid"),
    # mov eax, 0x40000027; syscall; ret
    _by_code("x32-call", "make a call by its x32 number", "b8270000400f05c3", "pid"),
    _probe(
        "posix-spawn",
        "start a program the quick way",
        """
        def attack(ctx):
            pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 42"], {})
            return f"exit status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"
        """,
    ),
    _probe(
        "subprocess",
        "start a program and read what it prints",
        """
        def attack(ctx):
            import subprocess
            return subprocess.run(["sh", "-c", "id"], stdout=subprocess.PIPE, check=True).stdout
        """,
    ),
    _probe(
        "multiprocessing",
        "start a worker",
        """
        def attack(ctx):
            import multiprocessing
            context = multiprocessing.get_context("fork")
            worker = context.Process(target=os._exit, args=(42,))
            worker.start()
            worker.join()
            return f"exit status {worker.exitcode}"
        """,
    ),
)

_EXECS = (
    _exec("exec-shell", "become a shell",
          'def attack(ctx): os.execv("/bin/sh", ["sh", "-c", "echo shell-$((6*7)) >&2"])', "shell-42"),
    _exec(
        "exec-python",
        "become a fresh interpreter",
        """
        def attack(ctx):
            code = "import os; os.write(2, b'python-%d' % (6 * 7))"
            os.execv(sys.executable, [sys.executable, "-S", "-c", code])
        """,
        "python-42",
    ),
    _exec(
        "exec-loader",
        "run a program by way of the dynamic loader",
        """
        def attack(ctx):
            import glob
            loader = glob.glob("/lib64/ld-linux-x86-64.so*")[0]
            os.execv(loader, [loader, "/bin/sh", "-c", "echo loader-$((6*7)) >&2"])
        """,
        "loader-42",
    ),
    _exec(
        "exec-memfd",
        "run a program that is in memory only",
        _PROGRAM
        + """
def attack(ctx):
    fd = os.memfd_create("program", 0)
    os.write(fd, program())
    os.execve(fd, ["program"], {})
""",
        "elf-42",
    ),
    _exec(
        "exec-scratch",
        "run a program from the scratch folder",
        _PROGRAM
        + """
def attack(ctx):
    fd = os.open("program", os.O_CREAT | os.O_WRONLY, 0o755)
    os.write(fd, program())
    os.close(fd)
    os.execv("./program", ["program"])
""",
        "elf-42",
    ),
    _exec(
        "execveat",
        "run a program by its descriptor",
        _PROGRAM
        + """
def attack(ctx):
    fd = os.open("program", os.O_CREAT | os.O_WRONLY, 0o755)
    os.write(fd, program())
    os.close(fd)
    arguments = (ctypes.c_char_p * 2)(b"program", None)
    syscall("execveat", os.open("program", os.O_PATH), b"", arguments, 0, 0x1000)
""",
        "elf-42",
    ),
)

_DAEMON = """
def attack(ctx):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            _libc.prctl(1, 0, 0, 0, 0)
            os.closerange(0, 64)
            {during}
            time.sleep(20)
        os._exit(0)
    time.sleep(0.2)
    {end}
"""


def _daemon(name: str, goal: str, end: str, during: str = "pass") -> Attack:
    code = _DAEMON.format(end=end, during=during)
    return Attack(name=name, group="children", goal=goal, code=code, after="processes")


_DAEMONS = (
    _daemon("daemon", "leave a process behind that goes on after the call", "return None"),
    _daemon("daemon-after-crash", "leave a process behind by crashing", "os.abort()"),
    _daemon("daemon-ignoring", "leave a process behind that ignores every signal", "return None",
            "[signal.signal(number, signal.SIG_IGN) for number in (1, 2, 3, 13, 15)]"),
    Attack(
        name="daemon-restless",
        group="children",
        goal="leave a process behind that forks itself anew all the time, so that nothing can catch it",
        code="""
        def attack(ctx):
            if os.fork() == 0:
                end = time.monotonic() + 2
                while time.monotonic() < end:
                    if os.fork():
                        os._exit(0)
                    os.setsid()
                    time.sleep(0.001)
                os._exit(0)
            time.sleep(0.2)
        """,
        after="processes",
    ),
)

ATTACKS = (*_FORKS, *_EXECS, *_DAEMONS)
