"""Runs one attack in one call and judges what came of it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from app.domain.errors import SubmissionError, WorkerLost
from app.domain.job import Limits
from app.sandbox import processes
from tests.sandbox.battery.base import Attack, MissingFact, Outcome, source
from tests.sandbox.battery.world import World
from tests.sandbox.jails import Lab

# So wide that nothing in the battery reaches them: the controls show what passes where no limit stops it.
WIDE = Limits(
    wall_s=60,
    memory_bytes=8 << 30,
    output_bytes=512 << 20,
    scratch_bytes=4 << 30,
    log_bytes=256 << 20,
    threads=1_000_000,
)
_WIDE_WALL_S = 30.0
_LATE_S = 1.0
_SETTLE_S = 0.05
_HARM_WITHIN_S = 1.0
_SLACK_BYTES = 64 << 20
_SAMPLE_S = 0.01
_PLAIN_S = 30.0
_MENDINGS = 20
_OURS_TO_BLAME = ("worker_lost", "dependency_unavailable", "internal_error")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """``no_control`` says why this machine can show no control for the attack, where that is so."""

    name: str
    got_through: bool
    evidence: str
    error_type: str | None
    took_s: float
    no_control: str = ""


def run(lab: Lab, attack: Attack, world: World, *, bare: bool = False) -> Verdict:
    """Make the attack once. With ``bare`` it is the control: the limits are wide, and it should get through."""
    lacking = attack.needs(world) if attack.needs else None
    if lacking and bare:
        return _without_control(attack, lacking)
    try:
        code = source(attack, world.facts, control=bare)
    except MissingFact as error:
        return _without_control(attack, str(error))
    lab.supervisor.warm()
    for _ in range(attack.tries if bare else 1):
        outcome = _call(lab, attack, code, bare=bare)
        evidence = _judge(attack, outcome, world, bare=bare)
        if evidence:
            break
    _mend(world)
    verdict = Verdict(
        name=attack.name,
        got_through=bool(evidence),
        evidence=(evidence or f"{outcome.error_type}: {outcome.message}")[:300],
        error_type=None if outcome.error_type == "done" else outcome.error_type,
        took_s=round(outcome.took_s, 3),
        no_control=lacking or "",
    )
    if bare and not evidence and not attack.expect:
        reason = _refused_to_anybody(attack, world)
        if reason:
            return replace(verdict, no_control=reason)
    return verdict


def _mend(world: World) -> None:
    """The next attack is not to be charged with what this one did."""
    for _ in range(_MENDINGS):
        world.mend()
        left = world.check()
        if not left:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the world could not be mended: {left}")


def _without_control(attack: Attack, reason: str) -> Verdict:
    return Verdict(name=attack.name, got_through=False, evidence="", error_type=None, took_s=0.0, no_control=reason)


def _call(lab: Lab, attack: Attack, code: str, *, bare: bool) -> Outcome:
    limits = WIDE if bare else attack.limits
    wall_s = _WIDE_WALL_S if bare else attack.wall_s
    ended: dict[str, object] = {}
    with _Sampler(lab.supervisor.pid or 0, shared=attack.counts_shared) as sampler:
        start = time.monotonic()
        try:
            ended = _once(lab, attack, code, limits, wall_s)
        except SubmissionError as error:
            fault = error.fault
            ended = {"error_type": str(fault.error_type), "message": fault.message, "log": fault.log_tail or ""}
        except WorkerLost as error:
            ended = {"error_type": "worker_lost", "message": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever a jail makes the service raise is a success of the attack
            ended = {"error_type": "internal_error", "message": repr(error)[:500]}
            lab.supervisor.close()
        now = time.monotonic()
    return Outcome(**{"took_s": now - start, "ended_at": now, "host_bytes": sampler.peak_bytes, **ended})  # type: ignore[arg-type]


def _once(lab: Lab, attack: Attack, code: str, limits: Limits, wall_s: float) -> dict[str, object]:
    if attack.side == "encode":
        return {"error_type": "done", "bitstream": lab.encode(code, wall_s=wall_s, limits=limits).bitstream}
    return {"error_type": "done", "bitstream": lab.decode(code, wall_s=wall_s).frames.tobytes()}


def _judge(attack: Attack, outcome: Outcome, world: World, *, bare: bool) -> str | None:
    """Evidence that the attack got what it wanted, or, outside the control, that it did any harm at all."""
    own = _own_evidence(attack, outcome, world, bare=bare)
    if bare or own:
        return own
    time.sleep(_SETTLE_S)
    return world.check()


def _own_evidence(attack: Attack, outcome: Outcome, world: World, *, bare: bool) -> str | None:
    if outcome.error_type in _OURS_TO_BLAME:
        return f"the service took the blame: {outcome.error_type}: {outcome.message}"
    if attack.judge is not None:
        return attack.judge(outcome, bare)
    if attack.expect:
        return _passed(attack, outcome) if bare else _amiss(attack, outcome)
    if attack.after is not None:
        return _harmed(attack.after, world, _HARM_WITHIN_S if bare else _SETTLE_S)
    if attack.log is not None:
        return f"{attack.log} in the log" if attack.log in outcome.log else None
    wanted = world.facts[attack.wants] if attack.wants else ""
    return outcome.text if outcome.text and wanted in outcome.text else None


def _passed(attack: Attack, outcome: Outcome) -> str | None:
    """In the control: what the limit would have stopped came to pass, or the attack came as far as it can."""
    if attack.control == "text":
        return outcome.text[:200] or None
    return attack.control if attack.control in outcome.log or attack.control in outcome.text else None


def _amiss(attack: Attack, outcome: Outcome) -> str | None:
    if outcome.error_type not in attack.expect:
        return f"ended as {outcome.error_type}, not as {' or '.join(sorted(attack.expect))}: {outcome.message[:150]}"
    marks = re.findall(r"breach (\d+\.\d+)", outcome.log)
    late_s = outcome.ended_at - float(marks[0]) if marks else outcome.took_s - attack.wall_s
    if late_s > _LATE_S:
        return f"ended {late_s:.2f} s after the breach"
    limits = attack.limits
    allowed = limits.memory_bytes + limits.scratch_bytes + limits.output_bytes + _SLACK_BYTES
    if outcome.host_bytes > allowed:
        return f"took {outcome.host_bytes} bytes of the host's memory, {allowed} were allowed"
    return None


def _harmed(kind: str, world: World, within_s: float) -> str | None:
    """Signals and packets take their time."""
    deadline = time.monotonic() + within_s
    while (harm := world.harms().get(kind)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return harm


def _refused_to_anybody(attack: Attack, world: World) -> str | None:
    """Why a process without any jail cannot do this either; None if it can, or if the attack is simply wrong."""
    code = source(attack, world.facts, control=True, plain=True)
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PLAIN_S, cwd=world.scratch
        )
        _mend(world)
        if done.returncode == 3:
            return done.stdout.strip()
    return None


class _Sampler:
    """The most memory that the jails of a zygote held at a time, and with ``shared`` what tmpfs and memfds grew by."""

    def __init__(self, zygote: int, *, shared: bool) -> None:
        self.peak_bytes = 0
        self._zygote = zygote
        self._shared = shared
        self._start_bytes = _shared_bytes() if shared else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _family(self) -> list[processes.Usage | None]:
        return [processes.usage_of(pid) for pid in processes.tree_of(self._zygote)]

    def _watch(self) -> None:
        # Every jail starts with all of its zygote's memory, which it shares.
        inherited = max((memory.own_bytes for memory in self._family() if memory), default=0)
        while not self._stop.wait(_SAMPLE_S):
            held = sum(max(0, memory.own_bytes - inherited) for memory in self._family() if memory)
            grown = _shared_bytes() - self._start_bytes if self._shared else 0
            self.peak_bytes = max(self.peak_bytes, held, grown)


def _shared_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) * 1024
    return 0
