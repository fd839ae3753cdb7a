"""The fuzzed wire: whatever a jail sends, its call ends as the submission's fault or with a well-formed result.

Most messages come from a stand-in for the jail, so that thousands a second go through the supervisor's real code; it is
served from the supervisor's own poll and needs no thread. The soak adds real jails.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import SubmissionError
from app.domain.job import Blame, ErrorType
from app.sandbox import memory, wire
from app.sandbox.call import Call, Interrupt
from app.sandbox.contracts.base import Geometry
from app.sandbox.faults import REPORTABLE
from app.sandbox.request import CallLimits, Finished, JailFault, Request
from app.sandbox.standby import Device, Standby
from app.sandbox.supervisor import Supervisor
from app.sandbox.watch import Watch
from tests.sandbox import packets
from tests.sandbox.jails import Lab

SEED = 20_251
WALL_S = 0.2
# A channel that closes is given half a second for the process to end as well, so that the fault can say why.
GRACE_S = 0.5
SLACK_S = 0.5
ROOM_BYTES = 4096
NUMBERS_OF_KEYS = 64

SHAPE = Geometry(layout="rgb", frames=1, height=16, width=16, fps=(25, 1))
CALL_LIMITS = CallLimits(
    wall_s=WALL_S,
    start_s=WALL_S,
    cpu_s=10,
    memory_bytes=1 << 30,
    scratch_bytes=1 << 20,
    output_bytes=ROOM_BYTES,
    log_bytes=512,
    device_memory_bytes=1 << 40,
    threads=8,
    open_files=64,
)
ANSWERS = {"open": "opened", "prepare": "prepared", "load": "loaded", "setup": "ready", "go": "done"}
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGXCPU, signal.SIGRTMIN)
LOGS = (b"", b"", b"DefaultCPUAllocator", b"\xff\x00\xd8" * 200, b'File "encoder.py", line 1 in x\n', b"x" * 5000)


class Link:
    """Stands for the link to a zygote, which says how a process has ended."""

    layers = ()

    def __init__(self) -> None:
        self.channel, self._other = wire.pair()

    def said(self, op: str, number: int) -> bool:
        return False

    def answer(self, op: str, number: int, patience_s: float) -> tuple[dict[str, Any], list[int]]:
        _, status = os.waitpid(number, 0)
        return {"op": op, "number": number, "status": status, "survivors": 0}, []

    def close(self) -> None:
        self.channel.close()
        self._other.close()


class FakeJail:
    """A jail's end of the channel and a process to be killed: honest in all phases but one, where it acts once."""

    def __init__(self, rng: random.Random, link: Link, *, side: str, device: bool) -> None:
        self.sent: packets.Sent | None = None
        self.token = ""
        self.at = rng.choice(("load", "setup", "go", "go"))
        self._prepared = False
        self.dies = rng.randrange(30) == 0
        self._rng = rng
        self._side = side
        self._device = device
        ours, self.channel = wire.pair()
        self.pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        logs = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(2)]
        self._writers = [write for _, write in logs]
        self.standby = Standby(
            number=self.pid,
            link=link,  # type: ignore[arg-type]
            channel=ours,
            logs=[read for read, _ in logs],
            scratch_bytes=0,
            directory=None,
            pidfd=os.pidfd_open(self.pid),
        )
        wire.send(self.channel, {"op": "confined"})
        if device:
            wire.send(self.channel, {"op": "opened", "name": "GPU", "memory_bytes": 8 << 30})

    def fileno(self) -> int:
        return self.channel.fileno()

    def check(self) -> None:
        """As the supervisor's poll finds that it has sent something."""
        if self.dies and self.at == "load" and self._prepared and self._rng.randrange(2):
            self._die()
            return
        try:
            message, received = wire.receive(self.channel, descriptors=1)
        except wire.Closed:
            return
        for fd in received:
            os.close(fd)
        phase = message["op"]
        # Nothing of a submission runs before: what ends until then is the service's own.
        self._prepared = True
        os.write(self._rng.choice(self._writers), self._rng.choice(LOGS) or b"x")
        if phase != self.at or self.sent is not None:
            honest = packets.well_formed(random.Random(1), ANSWERS[phase], message["token"])
            wire.send(self.channel, honest)
            return
        self.token = message["token"]
        self.sent = packets.act(self._rng, self.channel, ANSWERS[phase], self.token)
        if self.dies:
            self._die()

    def _die(self) -> None:
        """Also with what was sent to it still unread."""
        os.kill(self.pid, self._rng.choice(ENDS))
        self.channel.close()

    def close(self) -> None:
        self.channel.close()
        for fd in self._writers:
            os.close(fd)

    def may_end(self) -> set[str]:
        """``finished``, or the kinds of fault that are right for what was sent."""
        if self.dies:
            # What was sent before it may count, or that it ended.
            return {*self._by_message(), "signalled", "contract_violation", "memory_limit", "cpu_time_limit"}
        return self._by_message()

    def _by_message(self) -> set[str]:
        sent = self.sent
        if sent is None or sent.kind == "silent":
            return {"wall_time_limit"}
        message = _parsed(sent.data)
        if sent.descriptors or message is None or message.get("token") != self.token:
            return {"contract_violation"}
        if message.get("op") == "failed":
            told = (message.get("message"), message.get("traceback"))
            kind = message.get("error_type")
            right = isinstance(kind, str) and kind in REPORTABLE
            return {kind} if right and all(isinstance(text, str | None) for text in told) else {"contract_violation"}
        if message.get("op") != ANSWERS[self.at] or (self.at != "go" and sent.more):
            return {"contract_violation"}
        return {"finished"} if self.at != "go" or self._is_result(message) else {"contract_violation"}

    def _is_result(self, message: dict[str, Any]) -> bool:
        told = message.get("self_reported")
        sizes = [("bytes", ROOM_BYTES)] if self._side == "encode" else []
        sizes += [("device_peak_bytes", 2**50)] if self._device else []
        return (told is None or (isinstance(told, dict) and len(told) <= NUMBERS_OF_KEYS)) and all(
            type(message.get(key)) is int and 0 <= message[key] <= most for key, most in sizes
        )


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    """The message, if it is one."""
    if data is None or len(data) > wire.MAX_MESSAGE_BYTES:
        return None
    try:
        message = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _refuse(name: str) -> None:
    raise ValueError(name)


class Fuzzed(Supervisor):
    """The real supervisor, with a stand-in where it would take a jail."""

    def __init__(self, link: Link, *, device: bool) -> None:
        super().__init__(device=Device(name="cuda:0", memory_share=1.0) if device else None)
        self._stand_in = link

    def _begin(self, limits: CallLimits, *, mapped_bytes: int, interrupt: Interrupt | None) -> Call:
        assert isinstance(interrupt, FakeJail)
        pid = interrupt.pid
        watch = Watch(pid=pid, tree=lambda: [pid], limits=limits, mapped_bytes=mapped_bytes, directory=None)
        return Call(interrupt.standby, limits, watch, interrupt)


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def check_result(result: Finished) -> None:
    assert len(result.output) <= ROOM_BYTES
    assert min(result.load_s, result.setup_s, result.call_s, result.peak_memory_bytes) >= 0
    told = result.self_reported or {}
    assert len(told) <= NUMBERS_OF_KEYS
    assert all(len(key) <= 64 and math.isfinite(number) for key, number in told.items())
    check_text(result.log_tail, *told)


def check_fault(fault: JailFault) -> None:
    assert ErrorType(fault.error_type).blame is not Blame.PLATFORM
    assert fault.phase in ("load", "setup", "encode", "decode")
    assert 0 < len(fault.message) <= 2100
    assert len(fault.traceback or "") <= 12_200
    assert all(number is None or 0 <= number < math.inf for number in (fault.limit, fault.used))
    check_text(fault.message, fault.traceback or "", fault.log_tail or "")


def check_text(*texts: str) -> None:
    for text in texts:
        text.encode()


class Fuzz:
    """Calls with one hostile act each, against both kinds of lane and both sides."""

    def __init__(self, seed: int) -> None:
        self.ended: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.packets = 0
        self._rng = random.Random(seed)
        self._link = Link()
        self._supervisors = {device: Fuzzed(self._link, device=device) for device in (False, True)}
        self._input_fd = memory.sealed(bytes(SHAPE.nbytes), "input")

    def close(self) -> None:
        os.close(self._input_fd)
        self._link.close()

    def once(self, index: int) -> None:
        side, device = self._rng.choice(("encode", "decode")), self._rng.randrange(4) == 0
        request = Request(
            side=side,
            contract="native",
            code="",
            geometry=SHAPE,
            input_fd=self._input_fd,
            input_bytes=SHAPE.nbytes,
            limits=CALL_LIMITS,
        )
        before = open_fds()
        jail = FakeJail(self._rng, self._link, side=side, device=device)
        began = time.perf_counter()
        try:
            result = self._supervisors[device].call(request, jail)
            check_result(result)
            how = "finished"
            del result
        except JailFault as fault:
            check_fault(fault)
            how = fault.error_type
        took_s = time.perf_counter() - began
        jail.close()
        # Anything but these two, such as SandboxLost, has failed the test by now.
        about = f"call {index}, at {jail.at}: {jail.sent}"[:2000]
        assert how in jail.may_end(), f"ended as {how} and not as {jail.may_end()}: {about}"
        assert took_s < WALL_S + GRACE_S + SLACK_S, about
        # What an earlier test has left to be collected may go meanwhile.
        assert open_fds() <= before, about
        kind = "died" if jail.dies else jail.sent.kind if jail.sent else "silent"
        self.ended[how] += 1
        self.slowest[kind] = max(self.slowest.get(kind, 0.0), took_s)
        self.packets += 0 if jail.sent is None else jail.sent.more + (jail.sent.kind != "silent")


@contextmanager
def fuzzing(seed: int) -> Iterator[Fuzz]:
    fuzz = Fuzz(seed)
    try:
        yield fuzz
    finally:
        fuzz.close()


def run(count: int, seed: int) -> str:
    """What came of so many calls."""
    began = time.perf_counter()
    with fuzzing(seed) as fuzz:
        for index in range(count):
            fuzz.once(index)
    took_s = time.perf_counter() - began
    assert {"finished", "contract_violation", "wall_time_limit", "exception", "signalled"} <= set(fuzz.ended)
    slowest = {kind: round(took, 3) for kind, took in sorted(fuzz.slowest.items())}
    return f"{count} calls, {fuzz.packets} hostile packets, {took_s:.1f} s: {dict(fuzz.ended)}; slowest {slowest}"


def test_whatever_a_jail_sends_is_its_own_fault() -> None:
    run(2000, SEED)


@pytest.mark.soak
def test_a_hundred_thousand_hostile_messages(capsys: pytest.CaptureFixture[str]) -> None:
    told = run(100_000, SEED + 1)
    with capsys.disabled():
        print(f"\n{told}")  # noqa: T201 - how long it took


REAL = """
import random as _random, sys as _sys, time as _time

def _strike(answer):
    # The jail's own socket, since no other can be made here, and the question's token.
    frame = _sys._getframe()
    while not isinstance(frame.f_locals.get("message"), dict):
        frame = frame.f_back
    act(_random.Random({seed}), frame.f_locals["self"]._channel, answer, frame.f_locals["message"]["token"])
    _time.sleep({pause_s})

if {at!r} == "load":
    _strike("loaded")

def setup(ctx):
    if {at!r} == "setup":
        _strike("ready")

def {side}(given, ctx):
    _strike("done")
"""


def real_code(seed: int, side: str, at: str, pause_s: float) -> str:
    return Path(packets.__file__).read_text() + REAL.format(seed=seed, side=side, at=at, pause_s=pause_s)


@pytest.mark.soak
def test_whatever_a_real_jail_sends_is_its_own_fault(each_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    rng, ended, slowest_s = random.Random(SEED), Counter[str](), 0.0
    began = time.perf_counter()
    for index in range(200):
        side, at = rng.choice(("encode", "decode")), rng.choice(("load", "setup", "go", "go"))
        code = real_code(SEED + index, side, at, rng.choice((0.0, 0.02, 5.0)))
        start = time.perf_counter()
        try:
            (each_lab.encode if side == "encode" else each_lab.decode)(code, wall_s=0.4)
            ended["finished"] += 1
        except SubmissionError as error:
            assert error.fault.error_type.blame is not Blame.PLATFORM
            ended[str(error.fault.error_type)] += 1
        slowest_s = max(slowest_s, time.perf_counter() - start)
    took_s = time.perf_counter() - began
    assert slowest_s < 0.4 + GRACE_S + SLACK_S
    assert ended["contract_violation"] and ended["finished"], ended
    with capsys.disabled():
        print(f"\n200 real jails, {took_s:.1f} s, the slowest {slowest_s:.2f} s: {dict(ended)}")  # noqa: T201
