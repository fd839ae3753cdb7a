"""The whole way with real processes: two lanes at once, and what happens when something is killed in the middle."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.service import DECODER, ENCODER, SLEEPER, Bitlane, wait_for

pytestmark = pytest.mark.system

SLOW_ENCODER = ENCODER.replace(
    "def encode(frames, ctx):\n", "import time\n\ndef encode(frames, ctx):\n    time.sleep(0.7)\n"
)
RATE_POINTS = [{"quality": quality} for quality in range(4)]


def children(pid: int) -> list[int]:
    """Every process below ``pid``, as far as it can be seen."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        # A process that ends while it is looked at is no child any more (ENOENT, or ESRCH once it is open).
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def alive(pids: list[int]) -> list[int]:
    living = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            living.append(pid)
    return living


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def holds_torch(pid: int) -> bool:
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def evaluators(service: Bitlane) -> list[int]:
    assert service.process is not None
    return [pid for pid in children(service.process.pid) if "evaluator_main" in command_of(pid)]


@pytest.fixture
def pair(tmp_path):
    """A worker with a lane named gpu beside its CPU lane, and the orchestrator that it delivers to."""
    with (
        Bitlane(tmp_path / "orchestrator", lanes="none") as orchestrator,
        Bitlane(tmp_path / "worker", lanes="cpu=cpu,gpu=cpu", options=("--orchestrator", orchestrator.url)) as worker,
    ):
        yield worker, orchestrator


def submit_both(worker: Bitlane) -> list[str]:
    return [
        worker.submit(encoder=SLOW_ENCODER, rate_points=RATE_POINTS, device=lane, experiment_id=f"on-{lane}")["id"]
        for lane in ("cpu", "gpu")
    ]


def wait_until_both_run(worker: Bitlane, ids: list[str]) -> None:
    wait_for(lambda: all(worker.job(job_id)["state"] == "running" for job_id in ids), within_s=30, what="both to run")


def assert_one_result_each(worker: Bitlane, orchestrator: Bitlane, ids: list[str]) -> None:
    for lane, job_id in zip(("cpu", "gpu"), ids, strict=True):
        job = worker.ended(job_id)
        assert job["state"] == "succeeded", job["error"]
        assert len(job["report"]["points"]) == 4
        jobs = worker.http.get("/jobs", params={"experiment_id": f"on-{lane}"}).json()["jobs"]
        assert [found["id"] for found in jobs] == [job_id]
        wait_for(
            lambda job_id=job_id: worker.job(job_id)["delivery"]["state"] == "delivered",
            within_s=30,
            what="the delivery",
        )
        result = orchestrator.http.get(f"/experiment/on-{lane}/status").json()
        assert (result["job_id"], result["status"]) == (job_id, "completed")
    completed = orchestrator.http.get("/experiments").json()["completed_experiments"]
    assert sorted(completed) == ["on-cpu", "on-gpu"]


def test_both_run_at_the_same_time_and_arrive(pair):
    worker, orchestrator = pair
    ids = submit_both(worker)
    wait_until_both_run(worker, ids)
    assert_one_result_each(worker, orchestrator, ids)


def test_a_service_that_is_killed_in_the_middle_ends_both_jobs_after_a_restart(pair):
    worker, orchestrator = pair
    ids = submit_both(worker)
    wait_until_both_run(worker, ids)
    below = children(worker.process.pid)
    assert len(below) >= 4, "two evaluators with a zygote each"
    worker.kill()
    wait_for(lambda: not alive(below), within_s=5, what="everything below the service to end")
    worker.start()
    assert_one_result_each(worker, orchestrator, ids)
    for job_id in ids:
        assert worker.job(job_id)["attempt"] == 2


def test_an_evaluator_that_dies_costs_a_retry_and_the_job_runs_again(pair):
    worker, orchestrator = pair
    ids = submit_both(worker)
    wait_until_both_run(worker, ids)
    for pid in evaluators(worker):
        os.kill(pid, signal.SIGKILL)
    assert_one_result_each(worker, orchestrator, ids)
    assert [worker.job(job_id)["attempt"] for job_id in ids] == [2, 2]


def test_an_orchestrator_that_comes_late_gets_everything(tmp_path):
    orchestrator = Bitlane(tmp_path / "orchestrator", lanes="none")
    with Bitlane(tmp_path / "worker", options=("--orchestrator", orchestrator.url)) as worker:
        job = worker.run(experiment_id="early")
        wait_for(lambda: worker.job(job["id"])["delivery"]["attempts"] >= 1, within_s=10, what="a first try")
        seen = worker.job(job["id"])["delivery"]
        assert seen["state"] == "pending" and seen["last_error"] and seen["next_at"]
        assert worker.http.get("/readyz").status_code == 200
        with orchestrator:
            wait_for(
                lambda: worker.job(job["id"])["delivery"]["state"] == "delivered", within_s=30, what="the delivery"
            )
            assert orchestrator.http.get("/experiment/early/status").json()["job_id"] == job["id"]


def test_a_stop_is_clean_and_costs_no_retry(pair):
    worker, orchestrator = pair
    ids = submit_both(worker)
    wait_until_both_run(worker, ids)
    below = children(worker.process.pid)
    begun = time.monotonic()
    assert worker.stop() == 0, worker.log.read_text()[-2000:]
    assert time.monotonic() - begun < 15
    assert not alive(below)
    worker.start()
    assert_one_result_each(worker, orchestrator, ids)


def test_the_api_process_never_imports_torch(pair):
    worker, _ = pair
    maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
    assert "libtorch" not in maps and "numba" not in maps
    wait_for(lambda: any(map(holds_torch, children(worker.process.pid))), within_s=60, what="a zygote with torch")


def test_a_second_service_on_the_same_data_refuses_to_start(tmp_path):
    with Bitlane(tmp_path / "data", lanes="none") as first:
        second = Bitlane(tmp_path / "data", lanes="none")
        with pytest.raises(AssertionError) as refused:
            second.start()
        assert str(first.process.pid) in str(refused.value)


def test_a_cancelled_job_leaves_its_slot_within_a_second(pair):
    worker, _ = pair
    job = worker.submit(encoder=SLEEPER, device="cpu")
    wait_for(lambda: worker.job(job["id"])["state"] == "running", within_s=20, what="it to run")
    time.sleep(0.5)
    worker.http.post(f"/jobs/{job['id']}/cancel")
    wait_for(lambda: worker.job(job["id"])["state"] == "cancelled", within_s=2, what="the cancelled job to end")
    assert worker.run(device="cpu", decoder=DECODER)["state"] == "succeeded"


def test_everything_goes_well_on_dynamodb_too(tmp_path, moto):
    env = {
        "BITLANE_DYNAMODB_ENDPOINT": moto,
        "BITLANE_DYNAMODB_CREATE": "1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    with (
        Bitlane(tmp_path / "orchestrator", lanes="none") as orchestrator,
        Bitlane(
            tmp_path / "worker",
            lanes="cpu=cpu,gpu=cpu",
            options=("--store", "dynamodb", "--orchestrator", orchestrator.url),
            env=env,
        ) as worker,
    ):
        ids = submit_both(worker)
        wait_until_both_run(worker, ids)
        worker.kill()
        worker.start()
        assert_one_result_each(worker, orchestrator, ids)
        assert [worker.job(job_id)["attempt"] for job_id in ids] == [2, 2]


def test_whoever_waits_for_a_job_is_told_when_the_service_stops(tmp_path):
    with Bitlane(tmp_path / "data") as worker, ThreadPoolExecutor(1) as pool:
        job = worker.submit(encoder=SLEEPER)
        wait_for(lambda: worker.job(job["id"])["state"] == "running", within_s=30, what="it to run")
        waiting = pool.submit(httpx.get, f"{worker.url}/jobs/{job['id']}?wait=60", timeout=70)
        time.sleep(0.5)
        begun = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - begun < 8, "the stop waited for the poll"
        assert waiting.result().json()["state"] in ("running", "queued")


def test_an_evaluator_that_dies_while_idle_costs_nothing(tmp_path):
    with Bitlane(tmp_path / "data") as worker:
        worker.run()
        killed = evaluators(worker)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: set(evaluators(worker)) - set(killed), within_s=20, what="a new evaluator")
        assert worker.run()["attempt"] == 1
