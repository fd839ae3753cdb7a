"""One campaign: load, kills at random instants, the end, the verdict."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.sandbox import syscalls
from tests.system.chaos import stores, verdict
from tests.system.chaos.load import Book, Load
from tests.system.chaos.machine import PATIENCE_S, Machine
from tests.system.chaos.summary import Summary

WEIGHTS = {"api": 6, "evaluator": 5, "zygote": 3, "jail": 6}
STORE_WEIGHT = 4
_STOPS, _ORCHESTRATOR_KILLS, _WHATEVER_IS_THERE = 0.05, 0.1, 0.5
_MOST_PAUSE_S = 1.2
_WORK_WITHIN_S = 30.0
_END_WITHIN_S = 300.0
_DELIVERED_WITHIN_S = 8.0
_MOST_UNENDED = 30
_SHARED = Path("/dev/shm")
_SYSTEM_V = Path("/proc/sysvipc/shm")
_DATA = {"bitlane.db", "bitlane.lock", "blobs"}


def run(*, store: str, kills: int, seed: int, folder: Path, tell: Callable[[str], None]) -> Summary:
    # Whatever loses its parent comes to this process, where it is found.
    syscalls.set_child_subreaper()
    summary = Summary(store=store, seed=seed)
    draw = random.Random(f"{seed} {store}")
    backend = stores.make(store, folder)
    os.environ.update(backend.env)
    before = _shared_memory()
    machine = Machine(folder, backend, draw)
    book = Book()
    # A short campaign should not spend most of its time on what is left to run after the last kill.
    load = Load(machine.service.url, book, seed, most_unended=min(_MOST_UNENDED, 2 * kills))
    begun = time.monotonic()
    try:
        machine.start()
        load.start()
        _kill(machine, draw, kills, book, tell)
        load.end()
        _finish(machine, book, tell)
        load.close()
        machine.end()
        left = [*_left(machine), *_shared_memory_left(before)]
        _judge(summary, machine, book, left)
    finally:
        load.close()
        machine.close()
    summary.seconds = round(time.monotonic() - begun, 1)
    return summary


def _kill(machine: Machine, draw: random.Random, kills: int, book: Book, tell: Callable[[str], None]) -> None:
    weights = {**WEIGHTS, **({} if machine.backend.pid() is None else {"store": STORE_WEIGHT})}
    while (done := sum(machine.kills.values())) < kills:
        _wait(machine, draw)
        if draw.random() < _ORCHESTRATOR_KILLS:
            machine.strike_orchestrator()
        if draw.random() < _STOPS:
            machine.stop()
        else:
            machine.strike(draw.choices(list(weights), list(weights.values()))[0])
        if done % 10 == 0:
            tell(f"{done} of {kills} killed, {len(book.accepted)} accepted, {len(book.ended)} ended")


def _wait(machine: Machine, draw: random.Random) -> None:
    """Half of the kills hit whatever is there, a start that has hardly begun included; half hit when jobs run."""
    if draw.random() < _WHATEVER_IS_THERE:
        time.sleep(draw.choice([0.0, draw.uniform(0.0, _MOST_PAUSE_S)]))
        return
    deadline = time.monotonic() + _WORK_WITHIN_S
    while not machine.working() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(draw.uniform(0.0, _MOST_PAUSE_S))


def _finish(machine: Machine, book: Book, tell: Callable[[str], None]) -> None:
    """What has not ended and is not delivered after a long time without kills is stuck."""
    machine.settle()
    _until(lambda: not book.unended(), _END_WITHIN_S)
    if not _until(lambda: not machine.undelivered(), _DELIVERED_WITHIN_S):
        # Deliveries that were refused wait for minutes; a start makes them due.
        machine.stop()
        machine.settle()
        _until(lambda: not machine.undelivered(), _END_WITHIN_S)
    tell(f"{len(book.ended)} of {len(book.accepted)} ended, {machine.undelivered()} not delivered")


def _until(condition: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return held


def _left(machine: Machine) -> list[str]:
    deadline = time.monotonic() + PATIENCE_S
    while machine.survivors() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes = [f"process {process} is left" for process in machine.survivors()]
    files = [f"temporary file {path} is left" for path in machine.temporary.rglob("*")]
    kept = [f"{path} is left" for path in machine.service.data.iterdir() if path.name not in _DATA]
    return [*processes, *files, *kept]


def _shared_memory() -> set[str]:
    segments = [line.split()[1] for line in _SYSTEM_V.read_text().splitlines()[1:]] if _SYSTEM_V.exists() else []
    return {path.name for path in _SHARED.iterdir()} | {f"segment {number}" for number in segments}


def _shared_memory_left(before: set[str]) -> list[str]:
    """Nothing of ours runs any more: what somebody still uses is another's, whose is the rest shows after a while."""
    deadline = time.monotonic() + PATIENCE_S
    while new := [name for name in _shared_memory() - before if not _used(_SHARED / name)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return [f"shared memory {name} is left" for name in new]


def _used(path: Path) -> bool:
    """Whether a process maps the file or has it open."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(path) in (process / "maps").read_text(errors="replace"):
                return True
            if any(os.readlink(link) == str(path) for link in (process / "fd").iterdir()):
                return True
    return False


def _judge(summary: Summary, machine: Machine, book: Book, left: list[str]) -> None:
    jobs = machine.backend.jobs(machine.service.data)
    left += verdict.blobs(machine.service.data, jobs)
    summary.kills = dict(sorted(machine.kills.items()))
    summary.stops, summary.orchestrator_kills = machine.stops, machine.orchestrator_kills
    summary.left_behind = len(left)
    summary.problems += [*machine.problems, *machine.backend.problems(machine.service.data), *left]
    verdict.judge(summary, book, jobs, machine.orchestrator.accepted())
