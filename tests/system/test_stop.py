"""SIGTERM: no new jobs, a grace period for those that run, the rest is given back; and what a poison job leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import ENCODER, SLEEPER, Bitlane, spec, wait_for
from tests.system.test_whole_way import SLOW_ENCODER, evaluators

pytestmark = pytest.mark.system

LONG_S = "600"


@pytest.fixture
def orchestrator(tmp_path: Path) -> Iterator[Bitlane]:
    with Bitlane(tmp_path / "orchestrator", lanes="none") as orchestrator:
        yield orchestrator


def worker(tmp_path: Path, orchestrator: Bitlane, grace_s: str) -> Bitlane:
    options = ("--orchestrator", orchestrator.url)
    return Bitlane(tmp_path / "worker", options=options, env={"BITLANE_GRACE_S": grace_s})


def running(service: Bitlane, **changes: object) -> str:
    """A job that runs."""
    job_id = str(service.submit(**changes)["id"])
    wait_for(lambda: service.job(job_id)["state"] == "running", within_s=60, what="it to run")
    return job_id


def test_a_stop_waits_for_what_runs_and_begins_nothing(tmp_path, orchestrator):
    with worker(tmp_path, orchestrator, LONG_S) as service:
        slow = running(service, encoder=SLOW_ENCODER, rate_points=[{"q": q} for q in range(4)], experiment_id="slow")
        waiting = service.submit(encoder=ENCODER, experiment_id="waiting")["id"]
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: service.http.get("/readyz").status_code == 503, within_s=30, what="the stop to begin")
        refused = service.http.put("/jobs/late", json=spec())
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert service.process.wait(timeout=120) == 0
        assert orchestrator.http.get("/experiment/slow/status").json()["job_id"] == slow
        service.start()
        assert (service.job(slow)["state"], service.job(slow)["attempt"]) == ("succeeded", 1)
        ended = service.ended(waiting)
        assert (ended["state"], ended["attempt"]) == ("succeeded", 1)


def test_a_second_signal_ends_the_grace_period(tmp_path, orchestrator):
    with worker(tmp_path, orchestrator, LONG_S) as service:
        job_id = running(service, encoder=SLEEPER)
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: service.http.get("/readyz").status_code == 503, within_s=30, what="the stop to begin")
        assert service.job(job_id)["state"] == "running"
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(timeout=60) == 0
        service.start()
        wait_for(lambda: service.job(job_id)["attempt"] == 2, within_s=60, what="it to run again")
        assert service.http.post(f"/jobs/{job_id}/cancel").status_code == 202


def test_a_job_that_kills_its_evaluator_three_times_fails_with_the_evidence(tmp_path, orchestrator):
    with worker(tmp_path, orchestrator, "0") as service:
        poison = service.submit(encoder=SLEEPER, experiment_id="poison")["id"]
        healthy = service.submit()["id"]
        for number in (1, 2, 3):
            wait_for(lambda number=number: service.job(poison)["attempt"] == number, within_s=60, what="an attempt")
            for pid in evaluators(service):
                os.kill(pid, signal.SIGKILL)
        ended = service.ended(poison)
        assert (ended["state"], ended["fault"], ended["error_type"]) == ("failed", "platform", "worker_lost")
        assert [one["reason"] for one in ended["attempts"]] == ["the evaluator died"] * 3
        assert service.ended(healthy)["state"] == "succeeded"
        wait_for(lambda: service.job(poison)["delivery"]["state"] == "delivered", within_s=60, what="the delivery")
        assert orchestrator.http.get("/experiment/poison/status").json()["error_type"] == "worker_lost"
