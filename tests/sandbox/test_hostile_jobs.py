"""Hostile jobs leave nothing behind: whatever they do, the machine and the zygote are afterwards as they were before.

The attacks are those of the battery, and a few more that go for the end of the call itself.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import re
import textwrap
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.domain.errors import SubmissionError
from app.domain.job import Limits
from app.sandbox import isolation, processes
from tests.sandbox.battery.base import MissingFact, source
from tests.sandbox.battery.catalogue import ATTACKS
from tests.sandbox.battery.world import World
from tests.sandbox.jails import LIMITS, Lab, frames_of, geometry

State = dict[str, Hashable | Counter[str]]

SEED = 77
WALL_S = 0.3
WITHIN_S = 2.0
GROWN_BYTES = 16 << 20
SHARED_PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/dev/mqueue"))
SMALL = replace(LIMITS, memory_bytes=96 << 20, output_bytes=1 << 20, scratch_bytes=1 << 20, log_bytes=1024, threads=16)
# Standbys fit one size of scratch only, so that a call with another one leaves exactly as many as there ever are.
OTHER_SCRATCH = replace(LIMITS, scratch_bytes=LIMITS.scratch_bytes + (1 << 20))

BODIES = {
    "raise": "raise ValueError('x' * 100_000)",
    "raise-deep": "def down(): down()\ndown()",
    "raise-odd": "class Odd(BaseException):\n    __str__ = None\nraise Odd",
    "hang": "import time; time.sleep(60)",
    "spin": "while True: pass",
    "spin-native": "import torch\nwhile True: torch.rand(400, 400) @ torch.rand(400, 400)",
    "exit": "import os; os._exit(0)",
    "exit-code": "import os; os._exit(70)",
    "exit-python": "import sys; sys.exit(3)",
    "stop": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "abort": "import os; os.abort()",
    "memory": "held = [bytearray(8 << 20) for _ in range(100)]",
    "memory-at-once": "bytearray(1 << 40)",
    "tensor": "import torch; torch.ones(1 << 32)",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "disk": "number = 0\nwhile True:\n    open(str(number), 'wb').write(bytes(1 << 18))\n    number += 1",
    "disk-deep": "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
    "disk-locked": "import os\nos.mkdir('d')\nopen('d/f', 'w').close()\nos.mkdir('d/e', 0)\nreturn None",
    "open-files": "import os\nwhile True: os.open('/dev/null', 0)",
    "print": "while True: print('x' * 10_000)",
    "output": "return bytes(64 << 20)",
    "garbage": "import os, time; os.write(3, os.urandom(500)); time.sleep(60)",
    "close-channel": "import os, time; os.close(3); time.sleep(60)",
    "close-all": "import os, time; os.closerange(0, 64); time.sleep(60)",
    "close-all-and-end": "import os; os.closerange(0, 64)",
    "fork": "import os, time\nwhile True: os.fork()",
    "return-nothing": "return None",
    "return-other": "return object()",
}
SHELLS = {
    "encode": "def encode(frames, ctx):\n{body}\n",
    "decode": "def decode(bitstream, ctx):\n{body}\n",
    "setup": "def setup(ctx):\n{body}\ndef encode(frames, ctx): return b''\n",
    "import": "def now():\n{body}\nnow()\n",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hostile:
    """``code`` for one call of ``side``."""

    name: str
    side: str
    code: str
    limits: Limits


def hostile_jobs(world: World) -> list[Hostile]:
    """All that can be drawn. The world's coordinates do not change while nothing in it is harmed."""
    found = []
    for name, body in BODIES.items():
        for place, shell in SHELLS.items():
            side = "decode" if place == "decode" else "encode"
            code = shell.format(body=textwrap.indent(body, "    "))
            found.append(Hostile(name=f"{name} in {place}", side=side, code=code, limits=SMALL))
    for attack in ATTACKS:
        for side in ("encode", "decode"):
            with suppress(MissingFact):
                code = source(replace(attack, side=side), world.facts)
                found.append(Hostile(name=f"{attack.name} in {side}", side=side, code=code, limits=attack.limits))
    return found


def run(lab: Lab, job: Hostile) -> str:
    """How it ended. ``WorkerLost`` and the like pass through: no job may cause them."""
    part = {"encoder": job.code} if job.side == "encode" else {"decoder": job.code}
    codec = lab.codec(**part, limits=job.limits)
    try:
        if job.side == "encode":
            codec.encode(frames_of(geometry(codec.layout)), {}, wall_s=WALL_S)
        else:
            codec.decode(b"bitstream", geometry(codec.layout), wall_s=WALL_S)
    except SubmissionError as error:
        return str(error.fault.error_type)
    return "done"


def honest(lab: Lab) -> tuple[str, str]:
    """An honest encode and decode: the bitstream's and the frames' hashes."""
    codec = lab.codec()
    encoded = codec.encode(frames_of(geometry(codec.layout)), {}, wall_s=20)
    decoded = lab.codec(limits=OTHER_SCRATCH).decode(encoded.bitstream, geometry(codec.layout), wall_s=20)
    return hashlib.sha256(encoded.bitstream).hexdigest(), hashlib.sha256(decoded.frames).hexdigest()


def state(lab: Lab) -> State:
    """Everything of the machine, this process and the zygote's family that a job could leave something in."""
    lab.supervisor.settle()
    gc.collect()
    zygote = lab.supervisor.pid
    assert zygote is not None
    family = list(processes.tree_of(zygote))
    return {
        "zygote": zygote,
        "processes here": Counter(map(_process, processes.tree_of(os.getpid()))),
        "processes of the zygote": Counter(map(_process, family)),
        "descriptors here": _descriptors([os.getpid()]),
        "descriptors of the zygote": _descriptors(family),
        "mounts here": _mounts([os.getpid()]),
        "mounts of the zygote": _mounts(family),
        "scratch": Counter(_scratch(Path(lab.scratch_root))),
        "shared places": frozenset(_files_of_jails()),
        "System V": frozenset(_system_v()),
    }


def _process(pid: int) -> str:
    """Its name, and whether it is dead but not reaped."""
    with suppress(OSError):
        name, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").partition("(")[2].rpartition(")")
        return f"{name} {rest.split()[0].translate({ord('R'): 'S', ord('D'): 'S'})}"
    return "gone"


def _descriptors(pids: Iterable[int]) -> Counter[str]:
    """How many of each kind. An ordinary user may not look into processes that hide."""
    found: Counter[str] = Counter()
    for pid in pids:
        try:
            fds = os.listdir(f"/proc/{pid}/fd")
        except OSError as error:
            found[f"{type(error).__name__}"] += 1
            continue
        for fd in fds:
            with suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{pid}/fd/{fd}").partition(":[")[0]
                found[re.sub(r"/proc/\d+/", "/proc/PID/", target)] += 1
    return found


def _mounts(pids: Iterable[int]) -> Counter[str]:
    """Root, place and file system of each; the numbers differ from jail to jail. Containers come and go beside us."""
    found: Counter[str] = Counter()
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                words = line.split()
                if "/containers/" in words[4]:
                    continue
                found[f"{words[3]} {words[4]} {words[words.index('-') + 1]}"] += 1
    return found


def _scratch(root: Path) -> Iterator[str]:
    """Standby jails have a folder each, of any name, where they cannot mount one."""
    for path in root.rglob("*"):
        yield "/".join(("jail", *path.relative_to(root).parts[1:]))


def _files_of_jails() -> Iterator[str]:
    """By the owner, where jails have users of their own. What else the attacks leave has the world's mark."""
    for place in SHARED_PLACES:
        for path in place.iterdir() if place.is_dir() else ():
            with suppress(FileNotFoundError):
                if path.lstat().st_uid >= isolation.uid_of(0, 0):
                    yield str(path)


def _system_v() -> Iterator[tuple[str, ...]]:
    """Segments, semaphores and message queues without a key, as the attacks make them."""
    for kind in ("shm", "sem", "msg"):
        with suppress(FileNotFoundError):
            rows = [line.split() for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]]
            yield from ((kind, number) for key, number, *_ in rows if key == "0")


def _own_bytes(pid: int) -> int:
    return sum(usage.own_bytes for one in processes.tree_of(pid) if (usage := processes.usage_of(one)) is not None)


def changes(before: State, after: State) -> dict[str, tuple[object, object]]:
    """What differs; of counters only the differences, of sets what is new: others share the machine."""
    found = {}
    for name, old in before.items():
        new = after[name]
        if isinstance(old, Counter) and isinstance(new, Counter):
            gone, come = dict(old - new), dict(new - old)
        elif isinstance(old, frozenset) and isinstance(new, frozenset):
            gone, come = {}, dict.fromkeys(new - old, 1)
        else:
            gone, come = ({}, {}) if old == new else ({old: 1}, {new: 1})
        if gone or come:
            found[name] = (gone, come)
    return found


def leave_nothing_behind(lab: Lab, count: int) -> str:
    """Run so many of them between two looks at everything; how they ended."""
    rng, ended = random.Random(SEED), Counter[str]()
    with World() as world:
        jobs = hostile_jobs(world)
        first = honest(lab)
        before = state(lab)
        held_bytes = _own_bytes(before["zygote"])  # type: ignore[arg-type]
        began, slowest_s = time.perf_counter(), 0.0
        for job in rng.sample(jobs, min(count, len(jobs))) + rng.choices(jobs, k=max(0, count - len(jobs))):
            start = time.perf_counter()
            ended[run(lab, job)] += 1
            slowest_s = max(slowest_s, time.perf_counter() - start)
        took_s = time.perf_counter() - began
        assert honest(lab) == first
        # The zygote makes the nest for its next child a moment after it has told how the last one ended.
        deadline = time.monotonic() + WITHIN_S
        while (found := changes(before, state(lab))) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found == {}
        assert world.check() is None
        grown_bytes = _own_bytes(before["zygote"]) - held_bytes  # type: ignore[arg-type]
    assert grown_bytes < GROWN_BYTES
    told = f"{count} hostile jobs of {len(jobs)}, {took_s:.1f} s, the slowest {slowest_s:.2f} s"
    return f"{told}: {dict(ended)}; the zygote grew by {grown_bytes >> 10} KiB"


def test_fifty_hostile_jobs_leave_nothing_behind(each_lab: Lab) -> None:
    leave_nothing_behind(each_lab, 50)


@pytest.mark.soak
def test_a_thousand_hostile_jobs_leave_nothing_behind(each_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    told = leave_nothing_behind(each_lab, 1000)
    with capsys.disabled():
        print(f"\n{told}")  # noqa: T201 - how long it took
