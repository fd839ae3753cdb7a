"""The store, the orchestrator or the disk away: what was accepted ends stored and delivered once, what cannot be kept
is refused, and the service is alive all along."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contracts.faulty_proxy import FaultyProxy, always, let_through
from tests.faults import LoopThread, Orchestrator, Prober
from tests.service import ENCODER, Bitlane, spec, wait_for

pytestmark = pytest.mark.system

SLOW_ENCODER = ENCODER.replace(
    "def encode(frames, ctx):\n", "import time\n\ndef encode(frames, ctx):\n    time.sleep(1.0)\n"
)
FAULTS = ("refuse", "500", "throttle", "garbage", "half reply", "hang", "slow")


class Away:
    """A worker on DynamoDB whose way to its store, and whose orchestrator, can be spoiled."""

    def __init__(self, folder: Path, loop: LoopThread, dynalite: str) -> None:
        self.loop = loop
        self.proxy = loop.enter(FaultyProxy(dynalite))
        self.orchestrator = loop.enter(Orchestrator())
        env = {
            "BITLANE_DYNAMODB_ENDPOINT": self.proxy.endpoint,
            "BITLANE_DYNAMODB_TABLE": f"jobs-{uuid.uuid4().hex}",
            "BITLANE_DYNAMODB_CREATE": "1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        options = ("--store", "dynamodb", "--orchestrator", self.orchestrator.url)
        self.worker = Bitlane(folder / "worker", options=options, env=env)

    @property
    def spooled(self) -> list[str]:
        return [path.name for path in (self.worker.data / "spool").glob("*.json")]

    def running_job(self) -> str:
        job_id = self.worker.submit(encoder=SLOW_ENCODER)["id"]
        wait_for(lambda: self.worker.job(job_id)["state"] == "running", within_s=30, what="it to run")
        return job_id

    def assert_ended_once(self, job_id: str) -> None:
        job = self.worker.ended(job_id)
        assert (job["state"], job["attempt"]) == ("succeeded", 1), job["error"]
        wait_for(lambda: self.worker.job(job_id)["delivery"]["state"] == "delivered", within_s=30, what="the delivery")
        assert self.orchestrator.taken.count(f"msg_{job_id}") == 1
        wait_for(lambda: not self.spooled, within_s=10, what="the spool to be empty")


@pytest.fixture(scope="module")
def away(tmp_path_factory, dynalite):
    with LoopThread() as loop:
        away = Away(tmp_path_factory.mktemp("away"), loop, dynalite)
        with away.worker:
            away.worker.run()
            yield away


def ready_again(worker: Bitlane) -> None:
    wait_for(lambda: worker.http.get("/readyz").status_code == 200, within_s=30, what="it to be ready again")


def checks_of(worker: Bitlane) -> dict:
    return worker.http.get("/readyz?verbose").json()["checks"]


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=() if f in ("hang", "half reply") else pytest.mark.soak) for f in FAULTS]
)
def test_a_store_that_is_away(away, fault):
    worker, mine = away.worker, f"put-during-{fault.replace(' ', '-')}"
    with Prober(worker.url) as prober, ThreadPoolExecutor(8) as pool:
        job_id = away.running_job()
        away.proxy.plan = always(fault)
        begun = time.monotonic()
        asked = [
            pool.submit(worker.http.post, "/jobs", json=spec()),
            pool.submit(worker.http.post, "/jobs", json=spec(experiment_id=f"during {fault}")),
            pool.submit(worker.http.put, f"/jobs/{mine}", json=spec()),
            pool.submit(worker.http.get, f"/jobs/{job_id}"),
            pool.submit(worker.http.get, "/jobs"),
            pool.submit(worker.http.post, f"/jobs/{job_id}/redeliver"),
        ]
        refused = [one.result() for one in asked]
        assert time.monotonic() - begun < 20, "five seconds, and what a busy machine adds"
        assert [(r.status_code, bool(r.headers.get("retry-after"))) for r in refused] == [(503, True)] * 6
        assert {r.json()["error_type"] for r in refused} == {"dependency_unavailable"}
        wait_for(lambda: away.spooled == [f"{job_id}.1.json"], within_s=30, what="the result to be on the disk")
        seen = worker.http.get("/readyz?verbose")
        assert seen.status_code == 503
        store, spool = seen.json()["checks"]["store"], seen.json()["checks"]["spool"]
        assert store["kind"] == "dynamodb" and away.proxy.endpoint in store["endpoint"]
        assert store["away_since"] and store["last_error"] and not store["ok"]
        assert (spool["waiting"], spool["only_in_memory"]) == (1, 0)
        away.proxy.plan = let_through
        ready_again(worker)
        away.assert_ended_once(job_id)
        assert worker.http.put(f"/jobs/{mine}", json=spec()).json()["id"] == mine
        away.assert_ended_once(mine)
    prober.assert_alive()


@pytest.mark.soak
def test_a_store_that_fails_in_every_way_in_turn(away):
    """Whatever is answered with 202 is there afterwards, ends, and is delivered once."""
    worker = away.worker
    accepted: list[str] = []
    statuses: set[int] = set()
    with Prober(worker.url) as prober:
        for number, fault in enumerate(FAULTS):
            away.proxy.plan = let_through
            ready_again(worker)
            accepted.append(away.running_job())
            turns = iter(range(10**9))
            away.proxy.plan = lambda operation, fault=fault, turns=turns: fault if next(turns) % 3 else None
            answer = worker.http.put(f"/jobs/turn-{number}", json=spec())
            statuses.add(answer.status_code)
            if answer.status_code == 202:
                accepted.append(f"turn-{number}")
        away.proxy.plan = let_through
        ready_again(worker)
        for job_id in accepted:
            away.assert_ended_once(job_id)
    assert statuses <= {202, 503}
    prober.assert_alive()


def test_a_kill_while_the_store_is_away_loses_no_result(away):
    """And the service is there before its store is, and can be stopped meanwhile."""
    worker = away.worker
    job_id = away.running_job()
    away.proxy.plan = always("refuse")
    wait_for(lambda: away.spooled == [f"{job_id}.1.json"], within_s=30, what="the result to be on the disk")
    worker.kill()
    (worker.data / "spool" / "other.1.json").write_text("{")
    for _ in range(2):
        assert worker.stop() in (0, -signal.SIGKILL), worker.log.read_text()[-2000:]
        worker.launch()
        wait_for(lambda: worker.answers("/livez"), within_s=30, what="it to be alive without its store")
    with Prober(worker.url) as prober:
        for path in ("/readyz?verbose", f"/jobs/{job_id}", "/health", "/status"):
            answer = worker.http.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path
        assert worker.http.get("/health").json()["status"] == "unhealthy"
        assert "does not answer" in worker.http.get("/readyz?verbose").json()["reason"]
        refused = worker.http.post("/jobs", json=spec())
        assert (refused.status_code, refused.json()["error_type"]) == (503, "dependency_unavailable")
        away.proxy.plan = let_through
        ready_again(worker)
        away.assert_ended_once(job_id)
    prober.assert_alive()
    assert checks_of(worker)["spool"]["damaged"] == ["other.1.json.damaged"]
    assert "other.1.json" in worker.log.read_text()


def test_orchestrators_that_are_away_in_every_way(tmp_path):
    """Each is one target of the same worker; a slow one just takes its time."""
    moods = ("slow", "unreachable", "500", "429", "garbage", "cut")
    with LoopThread() as loop:
        targets = {mood: loop.enter(Orchestrator(mood)) for mood in moods}
        env = {"BITLANE_TARGETS": json.dumps({mood: target.url for mood, target in targets.items()})}
        with Bitlane(tmp_path / "worker", env=env) as worker, Prober(worker.url) as prober:
            jobs = {mood: [worker.submit(deliver_to=mood)["id"] for _ in range(1 + (mood == "429"))] for mood in moods}
            ids = [job_id for of_mood in jobs.values() for job_id in of_mood]
            assert [worker.ended(job_id)["state"] for job_id in ids] == ["succeeded"] * len(ids)
            away = moods[1:]
            wait_for(lambda: set(checks_of(worker)["delivery"]["refusing"]) >= set(away), within_s=30, what="refusals")
            assert worker.http.get("/readyz").status_code == 200
            seen = checks_of(worker)["delivery"]["targets"]
            assert all(seen[mood]["refusing_since"] and seen[mood]["last_error"] for mood in away)
            assert "429" in seen["429"]["last_error"] and "500" in seen["500"]["last_error"]
            for mood in away:
                loop.run(targets[mood].become("well"))
            back = time.monotonic()
            for job_id in ids:
                wait_for(lambda j=job_id: worker.job(j)["delivery"]["state"] == "delivered", within_s=60, what="it")
            assert time.monotonic() - back < 40, "five seconds, ten of the slow one, and what a busy machine adds"
            for mood in moods:
                assert sorted(targets[mood].taken) == sorted(f"msg_{job_id}" for job_id in jobs[mood])
            wait_for(lambda: checks_of(worker)["delivery"]["ok"], within_s=10, what="all targets to be well")
        prober.assert_alive()


@contextmanager
def small_disk(folder: Path, size: str):
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_a_disk_that_is_full(tmp_path):
    env = {"BITLANE_DISK_RESERVE_BYTES": str(2 << 20), "BITLANE_DISK_WARN_BYTES": str(1 << 30)}
    with small_disk(tmp_path / "disk", "64m") as disk, LoopThread() as loop:
        orchestrator = loop.enter(Orchestrator())
        worker = Bitlane(disk / "data", options=("--orchestrator", orchestrator.url), env=env)
        worker.log = tmp_path / "worker.log"
        with worker, Prober(worker.url) as prober:
            worker.run()
            assert checks_of(worker)["disk"]["ok"] and "MiB free" in checks_of(worker)["disk"]["warning"]
            long = SLOW_ENCODER.replace("sleep(1.0)", "sleep(2.0)")
            jobs = [worker.submit(encoder=long)["id"], worker.submit()["id"]]
            wait_for(lambda: worker.job(jobs[0])["state"] == "running", within_s=30, what="it to run")
            fill(disk / "fill")
            wait_for(lambda: worker.http.get("/readyz").status_code == 503, within_s=10, what="it to say so")
            for path, body in (("/jobs", spec()), ("/experiment", legacy())):
                refused = worker.http.post(path, json=body)
                assert (refused.status_code, refused.headers["retry-after"]) == (507, "5"), refused.text
            problem = worker.http.post("/jobs", json=spec()).json()
            assert (problem["error_type"], problem["retryable"]) == ("disk_full", True)
            wait_for(lambda: not checks_of(worker)["disk"]["ok"], within_s=10, what="the disk to be named")
            assert checks_of(worker)["disk"]["free_bytes"] == 0
            wait_for(lambda: over(worker, jobs[0]), within_s=30, what="the job to end, stored or not")
            (disk / "fill").unlink()
            ready_again(worker)
            jobs.append(worker.submit()["id"])
            for job_id in jobs:
                job = worker.ended(job_id)
                assert (job["state"], job["attempt"]) == ("succeeded", 1), job["error"]
                wait_for(lambda j=job_id: orchestrator.taken.count(f"msg_{j}") == 1, within_s=30, what="the delivery")
        prober.assert_alive()
        with sqlite3.connect(disk / "data" / "bitlane.db") as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
        assert not list((disk / "data" / "spool").glob("*.json")), "nothing is left behind"


def over(worker: Bitlane, job_id: str) -> bool:
    return worker.job(job_id)["state"] == "succeeded" or checks_of(worker)["spool"]["waiting"] == 1


def legacy() -> dict:
    code = spec()
    return {"experiment_id": "x", "encoding_agent_code": code["encoder"], "decoding_agent_code": code["decoder"]}


@pytest.mark.soak
def test_kills_at_any_moment_while_the_store_comes_and_goes(away):
    """Whatever was answered with 202 ends once in the store, and has one result, however often that is pushed."""
    worker, dice = away.worker, random.Random(7)
    accepted: set[str] = set()
    for round_ in range(12):
        for number in range(2):
            answer = worker.http.put(f"/jobs/kill-{round_}-{number}", json=spec(encoder=SLOW_ENCODER))
            assert answer.status_code in (202, 503), answer.text
            if answer.status_code == 202:
                accepted.add(f"kill-{round_}-{number}")
        time.sleep(dice.uniform(0.0, 2.0))
        fault = dice.choice(FAULTS)
        away.proxy.plan = always(fault)
        time.sleep(dice.uniform(0.0, 4.0))
        worker.kill()
        if dice.random() < 0.5:
            away.proxy.plan = let_through
        worker.launch()
        wait_for(lambda: worker.answers("/livez"), within_s=30, what="it to be alive")
        away.proxy.plan = let_through
        ready_again(worker)
    assert len(accepted) >= 12
    for job_id in accepted:
        job = worker.ended(job_id)
        assert job["state"] == "succeeded", job["error"]
        wait_for(lambda j=job_id: worker.job(j)["delivery"]["state"] == "delivered", within_s=30, what="the delivery")
        assert f"msg_{job_id}" in away.orchestrator.taken
    wait_for(lambda: not away.spooled, within_s=10, what="the spool to be empty")
