"""A lane slot with its real processes: run, cancel, crash, restart, and the end of the process that owns it."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from app.adapters.executors import local
from app.adapters.executors.local import LocalExecutor
from app.domain.errors import WorkerLost
from app.domain.job import ErrorType
from app.domain.lanes import Lane
from app.ports import Failed, Progress, Ready, Succeeded
from app.sandbox import processes
from tests.sandbox.jails import DECODER, alive, gone_within, in_encode, marked
from tests.sandbox.works import work, write_suite

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Gives itself a name, and never ends.
ENDLESS = """
import ctypes, time
def encode(frames, ctx):
    ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)
    time.sleep(60)
"""


def ignore(progress: Progress) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_suite(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(data_dir: Path) -> AsyncIterator[LocalExecutor]:
    running = LocalExecutor(lane=Lane(name="gpu", device="cpu"), slot=0, data_dir=data_dir)
    yield running
    await running.stop()


def evaluator_of(executor: LocalExecutor) -> int:
    """The evaluator's process: it is the child of ours that was told this executor's lane."""
    for pid in processes.children_of(os.getpid()):
        if b"evaluator_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("there is no evaluator")


async def started(mark: str) -> None:
    async with asyncio.timeout(30):
        while not marked(mark):  # noqa: ASYNC110 - what is awaited is another process's doing
            await asyncio.sleep(0.02)


async def test_a_job_is_measured_and_its_progress_told(executor: LocalExecutor) -> None:
    ready = await executor.warm()
    assert isinstance(ready, Ready)
    assert ready.device == "cpu" and ready.device_name and "no_new_privs" in ready.jail
    told: list[Progress] = []
    outcome = await executor.run(work(rate_points=({"quality": 1}, {"quality": 2})), told.append)
    assert isinstance(outcome, Succeeded)
    assert [point.params for point in outcome.report.points] == [{"quality": 1}, {"quality": 2}]
    assert all(point.lossless for point in outcome.report.points)
    assert outcome.report.provenance["jail"] == list(ready.jail)
    device = outcome.report.provenance["device"]
    assert isinstance(device, dict)
    assert (device["name"], device["lane"]) == (ready.device_name, "gpu")
    assert "stands on the CPU" in str(device["note"])
    versions = outcome.report.provenance["versions"]
    assert isinstance(versions, dict) and "torch" in versions
    assert told[0].total == 4 and {one.stage for one in told} >= {"encode", "decode"}


async def test_a_broken_submission_is_an_outcome_and_the_next_job_runs(executor: LocalExecutor) -> None:
    await executor.warm()
    broken = DECODER.replace("clip = ctx.clip", "clip = ctx.clip\n    if bitstream[-1] == 130: raise ValueError(7)")
    outcome = await executor.run(work(in_encode("return b'\\x82'"), broken), ignore)
    assert isinstance(outcome, Failed)
    assert (outcome.fault.error_type, outcome.fault.clip, outcome.fault.rate_point) == ("exception", "tiny", 0)
    assert outcome.fault.traceback is not None and "decoder.py" in outcome.fault.traceback
    assert isinstance(await executor.run(work(), ignore), Succeeded)


async def test_the_wall_limit_of_a_job(executor: LocalExecutor) -> None:
    await executor.warm()
    outcome = await executor.run(work(in_encode("while True: pass"), wall_s=0.5), ignore)
    assert isinstance(outcome, Failed) and outcome.fault.error_type is ErrorType.WALL_TIME_LIMIT


async def test_cancelling_kills_within_a_second_and_keeps_the_evaluator(executor: LocalExecutor) -> None:
    await executor.warm()
    evaluator = evaluator_of(executor)
    mark = f"bl{secrets.token_hex(5)}"
    task = asyncio.create_task(executor.run(work(ENDLESS.format(mark=mark)), ignore))
    await started(mark)
    begun = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - begun < 1
    assert marked(mark) == []
    assert evaluator_of(executor) == evaluator and alive(evaluator)
    assert isinstance(await executor.run(work(), ignore), Succeeded)


async def test_an_evaluator_that_does_not_answer_a_cancel_is_killed(executor: LocalExecutor) -> None:
    await executor.warm()
    evaluator = evaluator_of(executor)
    mark = f"bl{secrets.token_hex(5)}"
    task = asyncio.create_task(executor.run(work(ENDLESS.format(mark=mark)), ignore))
    await started(mark)
    os.kill(evaluator, signal.SIGSTOP)
    begun = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert local.CANCEL_S <= time.monotonic() - begun < 2
    assert not alive(evaluator)
    assert marked(mark) == []


async def test_a_killed_evaluator_is_lost_at_once_and_comes_back(executor: LocalExecutor) -> None:
    await executor.warm()
    mark = f"bl{secrets.token_hex(5)}"
    task = asyncio.create_task(executor.run(work(ENDLESS.format(mark=mark)), ignore))
    await started(mark)
    os.kill(evaluator_of(executor), signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(WorkerLost):
        await task
    assert time.monotonic() - begun < 1
    assert gone_within(mark, 2) == []
    with pytest.raises(WorkerLost):
        await executor.run(work(), ignore)
    await executor.warm()
    assert isinstance(await executor.run(work(), ignore), Succeeded)


async def test_stopping_leaves_no_process_and_no_descriptor(executor: LocalExecutor) -> None:
    await executor.warm()
    tree = list(processes.tree_of(evaluator_of(executor)))
    assert len(tree) >= 2
    await executor.stop()
    await executor.stop()
    assert not any(map(alive, tree))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    await executor.warm()
    await executor.stop()
    assert len(os.listdir("/proc/self/fd")) == before
