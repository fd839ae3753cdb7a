"""Cheats around the call: work before the clock, code planted for the decoder, leftovers, and the service itself."""

from __future__ import annotations

from tests.sandbox.integrity.cheat import (
    SENDS_ALL,
    SENDS_NOTHING,
    TAKES_ALL,
    TWO_PROCESSES,
    Cheat,
    hide_and_seek,
    indented,
    source,
)
from tests.sandbox.integrity.cheats_measuring import WORK_S

# Where a bitstream or frames might lie before the clock runs: files, and every descriptor that is open.
_LOOK = """
def descriptors():
    for fd in range(3, 512):
        size = os.fstat(fd).st_size if os.path.lexists(f"/proc/self/fd/{fd}") else 0
        if size:
            data = attempt(lambda: os.pread(fd, size, 0), b"")
            if any(data):
                yield data

def lying_about(name):
    if os.path.exists(name):
        yield read(name)
    yield from descriptors()

early = None
"""


def _early_decoder(name: str, goal: str, where: str) -> Cheat:
    """Finds the bitstream before ``decode``, and does its work there; else it does it in ``decode``."""
    look = (
        "    global early\n    for data in lying_about('bitstream.bin'):\n"
        f"        time.sleep({WORK_S})\n        early = data\n        break"
    )
    body = (
        f"{_LOOK}\ndef look():\n{look}\n"
        + ("look()\n" if where == "import" else "def setup(ctx): look()\n")
        + "def decode(bitstream, ctx):\n"
        f"    if early is None or len(early) < len(bitstream):\n        time.sleep({WORK_S})\n"
        "        return shaped(bitstream, ctx)\n"
        "    return shaped(early, ctx)\n"
    )
    return Cheat(
        name=name,
        goal=goal,
        encoder=SENDS_ALL,
        decoder=source(body),
        mode=TWO_PROCESSES,
        judge="clock",
        work_s=WORK_S,
    )


def _early_encoder(name: str, goal: str, where: str) -> Cheat:
    look = (
        "    global early\n    for data in lying_about('frames.npy'):\n"
        f"        time.sleep({WORK_S})\n        early = data\n        break"
    )
    body = (
        f"{_LOOK}\ndef look():\n{look}\n"
        + ("look()\n" if where == "import" else "def setup(ctx): look()\n")
        + "def encode(frames, ctx):\n"
        f"    if early is None or raw(frames) not in early:\n        time.sleep({WORK_S})\n"
        "    return raw(frames)\n"
    )
    return Cheat(
        name=name,
        goal=goal,
        encoder=source(body),
        decoder=TAKES_ALL,
        mode=TWO_PROCESSES,
        judge="clock",
        work_s=WORK_S,
        side="encode",
    )


_EARLY = tuple(
    make(f"early-{side}-at-{where}", f"{side} at {where}, before the clock", where)
    for side, make in (("encode", _early_encoder), ("decode", _early_decoder))
    for where in ("import", "setup")
)

# What the encoder plants, and how the decoder comes to run or read it.
_PLANTED = {
    "decoder-file": (
        "old = read('decoder.py') if os.path.exists('decoder.py') else b''\n"
        "write('decoder.py', f'DATA = {data!r}\\n'.encode() + old)",
        "data = DATA",
    ),
    "module-in-folder": (
        "write('@MARK@.py', f'DATA = {data!r}'.encode())",
        "sys.path.insert(0, os.getcwd())\ndata = __import__('@MARK@').DATA",
    ),
    "module-in-tmp": (
        "write('/tmp/@MARK@.py', f'DATA = {data!r}'.encode())",
        "sys.path.insert(0, '/tmp')\ndata = __import__('@MARK@').DATA\nos.unlink('/tmp/@MARK@.py')",
    ),
    "module-in-site": (
        "write(os.path.join(@SITE@, '@MARK@.py'), f'DATA = {data!r}'.encode())",
        "sys.path.append(@SITE@)\ndata = __import__('@MARK@').DATA\nos.unlink(os.path.join(@SITE@, '@MARK@.py'))",
    ),
    "bytecode-in-site": (
        "import importlib._bootstrap_external as external\n"
        "code = compile(f'DATA = {data!r}', '@MARK@', 'exec')\n"
        "write(os.path.join(@SITE@, '@MARK@.pyc'), external._code_to_timestamp_pyc(code))",
        "sys.path.append(@SITE@)\ndata = __import__('@MARK@').DATA\nos.unlink(os.path.join(@SITE@, '@MARK@.pyc'))",
    ),
    "path-file-in-site": (
        "write(os.path.join(@SITE@, '@MARK@.pth'), f'import builtins; builtins.kept = {data[:4000]!r}'.encode())",
        "import builtins, site\nsite.addsitedir(@SITE@)\ndata = builtins.kept\n"
        "os.unlink(os.path.join(@SITE@, '@MARK@.pth'))",
    ),
    "module-in-torch": (
        "write(os.path.join(@TORCH@, '@MARK@.py'), f'DATA = {data!r}'.encode())",
        "sys.path.append(@TORCH@)\ndata = __import__('@MARK@').DATA\nos.unlink(os.path.join(@TORCH@, '@MARK@.py'))",
    ),
    "user-site": (
        "import site\nwrite(os.path.join(site.getusersitepackages(), '@MARK@.py'), f'DATA = {data!r}'.encode())",
        "import site\nfolder = site.getusersitepackages()\nsys.path.append(folder)\ndata = __import__('@MARK@').DATA\n"
        "os.unlink(os.path.join(folder, '@MARK@.py'))\nattempt(lambda: os.removedirs(folder))",
    ),
    "kernel-extension": (
        "path = os.path.join(os.environ.get('TORCH_EXTENSIONS_DIR', '/tmp'), '@MARK@.so')\nwrite(path, data)",
        "data = take(os.path.join(os.environ.get('TORCH_EXTENSIONS_DIR', '/tmp'), '@MARK@.so'))",
    ),
}

_PLANTS = tuple(
    hide_and_seek(f"planted-{name}", "plant code for the decoder", plant, run, mode=TWO_PROCESSES)
    for name, (plant, run) in _PLANTED.items()
)

# What is left running bears the mark as its name.
_SPIN = """
def spin():
    libc.prctl(15, b"@MARK@", 0, 0, 0)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        pass
def rest():
    libc.prctl(15, b"@MARK@", 0, 0, 0)
    time.sleep(6)
def leave(what):
    if os.fork() == 0:
        try:
            what()
        finally:
            os._exit(0)
    time.sleep(0.02)
def deaf():
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    os.setsid()
    leave(spin)
"""

_LEFT = {
    "thread": "threading.Thread(target=spin, daemon=True).start()\ntime.sleep(0.02)",
    "sleeping-thread": "threading.Thread(target=rest, daemon=True).start()\ntime.sleep(0.02)",
    "child": "leave(spin)",
    "sleeping-child": "leave(rest)",
    "detached-child": "leave(deaf)",
    "stopped-child": "leave(lambda: (libc.prctl(15, b'@MARK@', 0, 0, 0), os.kill(os.getpid(), signal.SIGSTOP)))",
    "many-children": "for _ in range(20): leave(rest)",
    "executed-program": "import subprocess\ntext = 'printf @MARK@ > /proc/$$/comm; sleep 6; :'\n"
    "subprocess.Popen(['/bin/sh', '-c', text])\ntime.sleep(0.1)",
}


def _leaves(side: str, name: str, leave: str) -> Cheat:
    body = f"{_SPIN}\ndef start():\n{indented(leave, 4)}\n"
    encoder = "def encode(frames, ctx):\n    attempt(start)\n    return b''\n"
    decoder = "def decode(bitstream, ctx):\n    attempt(start)\n    return shaped(b'', ctx)\n"
    return Cheat(
        name=f"leftover-{name}-{side}",
        goal="leave something running that slows the others",
        encoder=source(body + encoder) if side == "encode" else SENDS_NOTHING,
        decoder=source(body + decoder) if side == "decode" else source(decoder.replace("attempt(start)", "pass")),
        judge="leftover",
    )


_LEFTOVERS = tuple(_leaves("encode", *both) for both in _LEFT.items()) + tuple(
    _leaves("decode", name, _LEFT[name]) for name in ("thread", "detached-child")
)

_ENDS = """
def parents():
    told = int(read("/proc/self/stat").rpartition(b")")[2].split()[1])
    return sorted({pid for pid in (told, os.getppid()) if pid > 1})
"""


def _ends(name: str, goal: str, act: str, **changes: object) -> Cheat:
    encoder = source(
        f"{_ENDS}\ndef act(pid):\n{indented(act, 4)}\n"
        "def encode(frames, ctx):\n    for pid in parents():\n        attempt(lambda: act(pid))\n"
        "    time.sleep(0.05)\n    return b''\n"
    )
    decoder = source("def decode(bitstream, ctx):\n    return shaped(b'', ctx)\n")
    options = {"mode": TWO_PROCESSES, "judge": "ends", **changes}
    return Cheat(name=name, goal=goal, encoder=encoder, decoder=decoder, **options)  # type: ignore[arg-type]


_SIGNALS = (
    _ends("kill-the-parent", "kill the evaluator, so that the job is tried again", "os.kill(pid, signal.SIGKILL)"),
    _ends("interrupt-the-parent", "interrupt the evaluator", "os.kill(pid, signal.SIGUSR1)"),
    _ends(
        "kill-by-pidfd",
        "kill the evaluator through a pidfd",
        "signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)",
    ),
    _ends(
        "starve-the-parent",
        "take the evaluator's descriptors away by its limits",
        "import resource\nresource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))\n"
        "resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, 1))",
    ),
)

# The memory of the result, which both sides have for a while: found by its name, then written, resized or sealed.
_RESULT = """
import fcntl, mmap
done = False
def result():
    for fd in range(3, 512):
        path = f"/proc/self/fd/{fd}"
        if os.path.lexists(path) and "memfd:output" in os.readlink(path):
            yield fd
def disturb():
    for fd in result():
        size = os.fstat(fd).st_size
        attempt(lambda: os.pwrite(fd, bytes(size), 0))
        attempt(lambda: os.ftruncate(fd, 0))
        attempt(lambda: os.ftruncate(fd, 1 << 30))
        attempt(lambda: must(libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(size))))
        attempt(lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE))
        attempt(lambda: os.fchmod(fd, 0))
        mmap.mmap(fd, 0)[:]
"""


def _disturbing(when: str, side: str) -> Cheat:
    before = {"import": "disturb()\n", "setup": "def setup(ctx):\n    disturb()\n", "call": ""}[when]
    inside = "    disturb()\n" if when == "call" else ""
    body = f"{_RESULT}\n{before}"
    encode = source(f"{body}\ndef encode(frames, ctx):\n{inside}    return b'x'\n")
    decode = source(f"{body}\ndef decode(bitstream, ctx):\n{inside}    return shaped(b'', ctx)\n")
    plain = source("def decode(bitstream, ctx):\n    return shaped(b'', ctx)\n")
    return Cheat(
        name=f"result-disturbed-{when}-{side}",
        goal="resize, seal or empty the result's memory, so that the service breaks or counts less",
        encoder=encode if side == "encode" else SENDS_NOTHING,
        decoder=decode if side == "decode" else plain,
        no_control="a naive evaluator has no memory for results",
    )


_DISTURBING = tuple(_disturbing(when, side) for side in ("encode", "decode") for when in ("import", "setup", "call"))

_PASSES_DESCRIPTORS = Cheat(
    name="descriptors-to-the-service",
    goal="hand the service a descriptor that holds the frames, for the next jail to inherit",
    encoder=source(
        """
        def encode(frames, ctx):
            fd = os.open("kept.bin", os.O_RDWR | os.O_CREAT)
            os.write(fd, raw(frames))
            job = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, os.dup(3))
            socket.send_fds(job, [b'{"op":"done","bytes":0}'], [fd] * 50)
            time.sleep(5)
        """
    ),
    decoder=source(
        """
        def decode(bitstream, ctx):
            size = shaped(b"", ctx).numel()
            for fd in range(3, 512):
                if os.path.lexists(f"/proc/self/fd/{fd}") and os.fstat(fd).st_size == size:
                    data = attempt(lambda: os.pread(fd, size, 0), b"")
                    if any(data):
                        return shaped(data, ctx)
            return shaped(b"", ctx)
        """
    ),
    faults=frozenset({"contract_violation"}),
    no_control="a naive evaluator has no channel",
)

_GPU_MEMORY = Cheat(
    name="gpu-memory",
    goal="leave the frames in the device's memory, and look for them in memory that is new",
    encoder=source(
        """
        def encode(frames, ctx):
            block = b"@MARK@".ljust(64) + raw(frames)
            block = torch.frombuffer(bytearray(block.ljust(65536, b"\\0")), dtype=torch.uint8)
            kept = block.to(ctx.device).repeat(4096)
            torch.cuda.synchronize()
            return b""
        """
    ),
    decoder=source(
        """
        def decode(bitstream, ctx):
            found = torch.empty(4096 * 65536, dtype=torch.uint8, device=ctx.device).reshape(-1, 65536)
            mark = torch.frombuffer(bytearray(b"@MARK@"), dtype=torch.uint8).to(ctx.device)
            rows = (found[:, :len(mark)] == mark).all(1).nonzero()
            return shaped(found[rows[0, 0]].cpu().numpy().tobytes()[64:] if len(rows) else b"", ctx)
        """
    ),
    device="cuda:0",
)

CHEATS = (*_EARLY, *_PLANTS, *_LEFTOVERS, *_SIGNALS, *_DISTURBING, _PASSES_DESCRIPTORS, _GPU_MEMORY)
