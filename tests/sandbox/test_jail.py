"""What a jailed process is: alone, with its own input only, and dead afterwards with all that it started."""

from __future__ import annotations

import gc
import json
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from app.domain.errors import SubmissionError, WorkerLost
from app.evaluator.codec import Layout
from app.sandbox.supervisor import Supervisor
from tests.sandbox.jails import ENCODER, Lab, alive, frames_of, geometry, in_decode, in_encode, marked

# A process that leaves its parent, its session and its group, with a name to find it by.
DETACH = """
import ctypes, os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)
        for _ in range(3):
            os.fork()
        time.sleep(60)
    os._exit(0)
time.sleep(0.3)
"""


@pytest.mark.parametrize("end", ["return b''", "raise ValueError", "os._exit(1)", "time.sleep(60)"])
def test_what_was_detached_is_dead_after_the_call(each_forking_lab: Lab, end: str) -> None:
    mark = f"bl{secrets.token_hex(5)}"
    code = in_encode(DETACH.format(mark=mark) + end)
    if end.startswith("return"):
        each_forking_lab.encode(code)
    else:
        with pytest.raises(SubmissionError):
            each_forking_lab.encode(code, wall_s=1.5)
    assert marked(mark) == []


def test_the_decoder_has_the_bitstream_and_nothing_else(each_lab: Lab) -> None:
    decoder_has_only_its_bitstream(each_lab)


def test_landlocks_own_descriptors_do_not_stay(tmp_path: Path) -> None:
    """Nor without a minimal root, where each jail makes its rules from a list of paths."""
    supervisor = Supervisor(without=("minimal_root",), scratch_root=str(tmp_path))
    try:
        decoder_has_only_its_bitstream(Lab(supervisor))
    finally:
        supervisor.close()


def decoder_has_only_its_bitstream(each_lab: Lab) -> None:
    """Its descriptors, its environment, its arguments, its ctx."""
    body = """
    import json, os, sys
    paths = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]
    told = {'fds': {path[14:]: os.readlink(path) for path in paths if os.path.lexists(path)}}
    told |= {'env': dict(os.environ), 'params': ctx.params, 'bitstream': list(bitstream), 'cwd': os.listdir('.')}
    raise ValueError(json.dumps(told))
    """
    with pytest.raises(SubmissionError) as caught:
        each_lab.decode(in_decode(body), b"abc")
    told = json.loads(caught.value.fault.message.removeprefix("ValueError: "))
    fds = {int(fd): target.partition(":[")[0] for fd, target in told["fds"].items() if "/proc/" not in target}
    assert {fd: fds.pop(fd) for fd in (0, 1, 2, 3)} == {0: "/dev/null", 1: "pipe", 2: "pipe", 3: "socket"}
    assert all(target.startswith("/memfd:output") for target in fds.values()), fds
    assert told["params"] is None
    assert told["bitstream"] == [97, 98, 99]
    assert told["cwd"] == ["decoder.py"]
    assert not {name for name in told["env"] if name.startswith(("BITLANE", "AWS", "PYTEST", "SECRET"))}


def test_inputs_arrive_with_go_only(lab: Lab) -> None:
    """At import and in setup there is nothing to read but the code and the (empty) output."""
    look = """
import gc
import os
seen = []
def look():
    for fd in os.listdir('/proc/self/fd'):
        try: target = os.readlink(f'/proc/self/fd/{fd}')
        except OSError: continue
        if 'memfd' in target: seen.append((target, bytes(os.pread(int(fd), 64, 0)).strip(bytes(1))))
    for line in open('/proc/self/maps'):
        if 'memfd' in line: seen.append((line.split()[-1], b''))
look()
def setup(ctx): look()
def encode(frames, ctx): return repr(seen).encode()
"""
    assert lab.encode(look).bitstream in (b"[]", b"[('/memfd:output (deleted)', b'')]")


def test_nothing_is_kept_from_call_to_call(each_lab: Lab) -> None:
    leave = """
    import builtins, os, torch
    builtins.kept = torch.kept = 1
    open('kept', 'w').write('x')
    if ctx.scratch.startswith('/dev/shm'):
        open('/dev/shm/kept', 'w').write('x')
    return b''
    """
    each_lab.encode(in_encode(leave))
    look = """
    import builtins, os, torch
    found = [hasattr(builtins, 'kept'), hasattr(torch, 'kept'), os.path.exists('kept')]
    found.append(os.path.exists('/dev/shm/kept'))
    return repr(found).encode()
    """
    assert each_lab.encode(in_encode(look)).bitstream == b"[False, False, False, False]"
    assert not Path("/dev/shm/kept").exists()


def test_generators_follow_the_seed(lab: Lab) -> None:
    draw = in_encode(
        "import random, numpy, torch\n"
        "return repr([random.random(), numpy.random.rand(), torch.rand(1).item(), hash('abc')]).encode()"
    )
    first, again, other = (lab.encode(draw, seed=seed).bitstream for seed in (1, 1, 2))
    assert first == again
    drawn, redrawn = first.split(b","), other.split(b",")
    assert all(one != two for one, two in zip(drawn[:3], redrawn[:3], strict=True))


def test_the_source_can_be_changed_in_place_and_stays_what_it_was(lab: Lab) -> None:
    shape = geometry(Layout.RGB)
    frames = frames_of(shape)
    before = frames.array.copy()
    codec = lab.codec(in_encode("frames.zero_()\nreturn frames.numpy().tobytes()"))
    assert codec.encode(frames, {}, wall_s=20).bitstream == bytes(shape.nbytes)
    assert np.array_equal(frames.array, before)


def test_threads_and_autograd_work_in_a_jail(lab: Lab) -> None:
    body = """
    import threading, torch
    out = []
    thread = threading.Thread(target=lambda: out.append(threading.get_ident()))
    thread.start(); thread.join()
    x = torch.rand(256, 256, requires_grad=True)
    torch.set_num_threads(2)
    (x @ x).sum().backward()
    return str((len(out), tuple(x.grad.shape))).encode()
    """
    assert lab.encode(in_encode(body)).bitstream == b"(1, (256, 256))"


def test_ordinary_python_works(lab: Lab) -> None:
    code = """
import dataclasses, io, pickle, zlib, os
from PIL import Image
@dataclasses.dataclass
class Box:
    value: int = 3
if __name__ == "__main__":
    raise SystemExit
def encode(frames, ctx):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    assert os.path.exists(__file__) and pickle.loads(pickle.dumps(Box())) == Box()
    return memoryview(zlib.compress(picture.getvalue()))
"""
    assert lab.encode(code).bitstream.startswith(b"\x78\x9c")


def test_the_layers_in_force_are_told(lab: Lab, plain_lab: Lab) -> None:
    assert {"no_new_privs", "rlimits", "single_use_process", "parent_death"} <= set(lab.supervisor.layers)
    assert "descendants_killed" in plain_lab.supervisor.layers
    assert "pid_namespace" not in plain_lab.supervisor.layers
    assert {"torch", "numpy", "python"} <= set(lab.supervisor.versions)


def test_new_privileges_and_core_dumps_are_off(each_lab: Lab) -> None:
    body = """
    import resource
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    return repr((status['NoNewPrivs'].strip(), resource.getrlimit(resource.RLIMIT_CORE))).encode()
    """
    assert each_lab.encode(in_encode(body)).bitstream == b"('1', (0, 0))"


def test_a_dead_zygote_is_the_platforms_fault_and_is_replaced() -> None:
    supervisor = Supervisor()
    try:
        supervisor.warm()
        lab = Lab(supervisor)
        assert supervisor.pid is not None
        with subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {supervisor.pid}"]), pytest.raises(WorkerLost):
            lab.encode(in_encode("import time; time.sleep(60)"))
        assert lab.encode(ENCODER).bitstream
        # One that dies between two calls costs nobody anything.
        os.kill(supervisor.pid, signal.SIGKILL)
        assert lab.encode(ENCODER).bitstream
    finally:
        supervisor.close()


def test_fifty_calls_leave_nothing_behind(each_lab: Lab) -> None:
    """No descriptor, no process, no file; honest and broken calls in turn."""
    codes = [ENCODER, in_encode("1/0"), in_encode("import os; os._exit(1)"), "def (", in_encode("return None")]
    zygote = each_lab.supervisor.pid
    assert zygote is not None

    def state() -> tuple[int, int, set[str], int]:
        each_lab.supervisor.settle()
        inside = [f"{zygote}", *Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()]
        fds = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in inside if alive(int(pid)))
        ours = len(os.listdir(each_lab.scratch_root))
        gc.collect()
        return len(os.listdir("/proc/self/fd")) + fds, ours, set(os.listdir("/dev/shm")), len(inside)

    def round_of(count: int) -> None:
        for index in range(count):
            try:
                each_lab.encode(codes[index % len(codes)])
            except SubmissionError:
                continue

    def steady() -> tuple[int, int, set[str], int]:
        """The zygote makes the nest for its next child a moment after it has told how the last one ended."""
        deadline = time.monotonic() + 5
        seen, since = state(), time.monotonic()
        while time.monotonic() - since < 0.3 and time.monotonic() < deadline:
            time.sleep(0.02)
            if (now := state()) != seen:
                seen, since = now, time.monotonic()
        return seen

    round_of(6)
    before = steady()
    round_of(50)
    assert steady() == before


def test_secrets_do_not_cross_and_closing_ends_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITLANE_PUSH_SECRET", "hush-hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    look = "import os\nreturn repr(dict(os.environ)).encode()"
    supervisor = Supervisor()
    try:
        told = Lab(supervisor).encode(in_encode(look)).bitstream
        assert b"hush-hush" not in told
        assert b"OMP_NUM_THREADS" in told
        pid = supervisor.pid
        assert pid is not None
        family = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    finally:
        supervisor.close()
    deadline = time.monotonic() + 2
    while any(map(alive, family)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, family))
