"""What goes wrong where nobody expects it leaves no descriptor, no folder and no dead zygote behind."""

from __future__ import annotations

import errno
import gc
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.adapters.executors.evaluator_main import Evaluator
from app.domain.errors import WorkerLost
from app.sandbox import offer, processes, scratch, wire
from app.sandbox.request import SandboxLost
from app.sandbox.standby import Standby
from app.sandbox.supervisor import Supervisor
from app.sandbox.zygote_link import ZygoteLink
from tests.sandbox.jails import ENCODER, Lab, in_encode
from tests.sandbox.works import work


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(scratch_root=str(tmp_path))
    yield made
    made.close()


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def refuse(*_: Any) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_standby_whose_zygote_is_found_dead_is_closed(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, before = Lab(supervisor), open_descriptors()
    lab.encode(ENCODER)  # from here on standbys have this lab's size of scratch
    said, asked = ZygoteLink.said, []

    def dead_at_first(link: ZygoteLink, op: str, number: int) -> bool:
        asked.append(op)
        if len(asked) == 1:
            raise SandboxLost("the zygote is gone")
        return said(link, op, number)

    monkeypatch.setattr(ZygoteLink, "said", dead_at_first)
    assert lab.encode(ENCODER).bitstream
    assert asked
    supervisor.close()
    assert open_descriptors() == before


def test_a_standby_that_fails_or_takes_long_is_no_matter_of_the_call_beside_it(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, before = Lab(supervisor), open_descriptors()
    lab.encode(ENCODER)
    usual, failed = Standby.await_confined, []

    def slow(made: Standby) -> None:
        if made not in supervisor._standbys:
            usual(made)
            return
        time.sleep(0.5)
        failed.append(made.number)
        raise SandboxLost("a jail was not confined")

    monkeypatch.setattr(Standby, "await_confined", slow)
    assert lab.encode(ENCODER, wall_s=0.4).bitstream
    assert len(failed) == 1
    supervisor.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("step", ["pair", "pipe2"])
def test_a_jail_that_cannot_be_furnished_leaves_nothing(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(without=offer.SEPARATED, scratch_root=str(tmp_path))
    try:
        link = supervisor._warm()
        before = open_descriptors()
        with monkeypatch.context() as patched, pytest.raises(SandboxLost, match="a jail could not be made"):
            patched.setattr(wire if step == "pair" else os, step, refuse)
            supervisor._order(link)
        assert open_descriptors() == before
        assert list(tmp_path.iterdir()) == []
    finally:
        supervisor.close()


def test_a_zygote_without_a_descriptor_left_says_so_and_lives(supervisor: Supervisor) -> None:
    link = supervisor._warm()
    zygote = list(processes.tree_of(link.pid))[1] if "pid_namespace" in link.layers else link.pid
    held = {int(name) for name in os.listdir(f"/proc/{zygote}/fd")}
    free = [number for number in range(len(held) + 3) if number not in held]
    usual = resource.prlimit(zygote, resource.RLIMIT_NOFILE)
    # Room for the three that come with the question, and for no more.
    resource.prlimit(zygote, resource.RLIMIT_NOFILE, (free[2] + 1, usual[1]))
    for _ in range(3):
        made = supervisor._order(link)
        with pytest.raises(SandboxLost, match="Too many open files"):
            made.await_forked()
        made.discard()
    resource.prlimit(zygote, resource.RLIMIT_NOFILE, usual)
    assert Lab(supervisor).encode(in_encode("return b'x'")).bitstream == b"x"
    assert supervisor.pid == link.pid


def test_no_folder_for_temporary_files_is_nothing_to_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch.tempfile, "gettempdir", refuse)
    scratch.sweep(None)


def test_below_the_minimum_there_is_no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(ZygoteLink, "await_ready", lambda link: started.append(link) or True)
    supervisor = Supervisor(minimum=offer.DEFAULT_MINIMUM)
    with pytest.raises(WorkerLost, match="below the declared minimum"):
        Lab(supervisor).encode(ENCODER)
    assert len(started) == 1 and supervisor.pid is None


class Asked(Exception):
    """The evaluator has come to its next question."""


class Tired(Evaluator):
    """Has one job to run, and a supervisor that cannot rest after it."""

    def __init__(self, error: Exception) -> None:
        self._control = self._supervisor = self  # type: ignore[assignment]
        self._error = error
        self._questions = [{"op": "run", "work": work()}]

    def ready(self) -> dict[str, Any]:
        return {}

    def send(self, message: dict[str, Any]) -> None:
        pass

    def receive(self) -> dict[str, Any]:
        if not self._questions:
            raise Asked
        return self._questions.pop()

    def _answer(self, _: Any) -> dict[str, Any]:
        return {}

    def rest(self) -> None:
        raise self._error


@pytest.mark.parametrize("error", [SandboxLost("the zygote is gone"), OSError(errno.EAGAIN, "no processes")])
def test_an_evaluator_that_cannot_rest_serves_on(error: Exception) -> None:
    with pytest.raises(Asked):
        Tired(error).serve()
