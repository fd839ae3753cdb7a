"""The routes of the old system, as its clients use them."""

from __future__ import annotations

import time

import httpx
import pytest

from app.domain.signing import sign
from tests.service import DECODER, ENCODER, SLEEPER, Bitlane, wait_for


def experiment(**changes):
    body = {
        "experiment_id": "exp-1",
        "encoding_agent_code": ENCODER,
        "decoding_agent_code": DECODER,
        "hypothesis": "it is smaller",
        "timestamp": 1_700_000_000,
        "unknown": {"is": "ignored"},
    }
    body.update(changes)
    return {name: value for name, value in body.items() if value is not None}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A worker and its orchestrator."""
    folder = tmp_path_factory.mktemp("legacy")
    with (
        Bitlane(folder / "orchestrator", lanes="none") as orchestrator,
        Bitlane(folder / "worker", lanes="cpu=cpu", options=("--orchestrator", orchestrator.url)) as worker,
    ):
        yield worker, orchestrator


def test_an_experiment_is_accepted_though_another_runs(old):
    worker, orchestrator = old
    body = experiment(experiment_id="exp-long", encoding_agent_code=SLEEPER)
    first = worker.http.post("/experiment", json=body)
    second = worker.http.post("/experiment", json=experiment(experiment_id="exp-2"))
    for answer, name in ((first, "exp-long"), (second, "exp-2")):
        assert answer.status_code == 202
        accepted = answer.json()
        assert accepted["status"] == "accepted" and accepted["state"] == "queued"
        assert accepted["experiment_id"] == name and accepted["job_id"] and accepted["worker_id"]
        assert isinstance(accepted["queue_position"], int) and accepted["message"]
    status = worker.http.get("/status").json()
    assert status["is_processing"] is False and status["queue_length"] >= 1 and status["device"] == "cpu"
    wait_for(
        lambda: worker.http.get("/experiment/exp-long/status").json()["status"] == "processing",
        within_s=30,
        what="it to run",
    )
    assert worker.http.get("/experiment/exp-2/status").json()["status"] == "queued"
    assert set(worker.http.get("/experiments").json()["active_experiments"]) == {"exp-long", "exp-2"}
    worker.http.post(f"/jobs/{first.json()['job_id']}/cancel")
    cancelled = worker.http.get(f"/jobs/{first.json()['job_id']}?wait=10").json()
    assert cancelled["state"] == "cancelled"
    done = worker.ended(second.json()["job_id"])
    assert done["state"] == "succeeded", done["error"]
    wait_for(
        lambda: orchestrator.http.get("/experiment/exp-2/status").status_code == 200,
        within_s=20,
        what="the push to arrive",
    )
    here = worker.http.get("/experiment/exp-2/status").json()
    there = orchestrator.http.get("/experiment/exp-2/status").json()
    assert here == there
    assert there["status"] == "completed" and there["execution_success"] == {"encoding": True, "decoding": True}
    assert there["metrics"]["compressed_size_bytes"] > 0 and there["metrics"]["ssim"] is not None
    assert isinstance(there["timestamp"], int) and "error" not in there
    wait_for(
        lambda: "exp-long" in orchestrator.http.get("/experiments").json()["completed_experiments"],
        within_s=20,
        what="the cancelled one to arrive too",
    )
    told = orchestrator.http.get("/experiment/exp-long/status").json()
    assert (told["status"], told["state"]) == ("failed", "cancelled")
    assert told["metrics"]["psnr_db"] is None and told["metrics_missing"]["psnr_db"]
    job = worker.http.get(f"/jobs/{second.json()['job_id']}").json()
    assert job["delivery"]["state"] == "delivered"


@pytest.mark.parametrize(
    "changes",
    [
        {"experiment_id": None},
        {"experiment_id": ""},
        {"experiment_id": 5},
        {"encoding_agent_code": None},
        {"decoding_agent_code": "  "},
        {"encoding_agent_code": ["x"]},
        {"encoding_agent_code": "def encode(:"},
        {"config": 5},
        {"device": "tpu"},
    ],
)
def test_bad_experiments_get_400_and_an_error(service, changes):
    answer = service.http.post("/experiment", json=experiment(**changes))
    assert answer.status_code == 400 and set(answer.json()) == {"error"} and answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_json_gets_400(service, body):
    answer = service.http.post("/experiment", content=body)
    assert answer.status_code == 400 and answer.json()["error"]


def test_the_agent_name_of_the_code_wins(service):
    body = experiment(
        experiment_id="names", encoding_code="def encode(:", decoding_code="def decode(:", config={"quality": 3}
    )
    answer = service.http.post("/experiment", json=body)
    assert answer.status_code == 202
    service.http.post(f"/jobs/{answer.json()['job_id']}/cancel")


def test_unknown_experiments_are_not_found(service):
    answer = service.http.get("/experiment/nobody/status")
    assert answer.status_code == 404 and answer.json()["status"] == "not_found"


def test_health(service):
    health = service.http.get("/health").json()
    assert health["status"] == "healthy" and health["gpu_count"] == 0
    assert {"worker_id", "device", "jobs_processed", "timestamp"} <= set(health)


RESULT = {"experiment_id": "pushed", "status": "completed", "metrics": {"psnr_db": 35.25, "bitrate_mbps": 0.1}}


def test_a_pushed_result_is_kept_once(service):
    for _ in range(3):
        answer = service.http.post("/experiment_result", json=RESULT, headers={"webhook-id": "msg_1"})
        assert answer.status_code == 200 and answer.json()["status"] == "received"
    late = {**RESULT, "status": "failed"}
    service.http.post("/experiment_result", json=late, headers={"webhook-id": "msg_1"})
    assert service.http.get("/experiment/pushed/status").json() == RESULT
    assert service.http.get("/experiments").json()["completed_experiments"].count("pushed") == 1


def test_a_push_never_overwrites_a_job_of_our_own(service):
    job = service.run(experiment_id="ours")
    service.http.post("/experiment_result", json={**RESULT, "experiment_id": "ours"}, headers={"webhook-id": "msg_2"})
    assert service.http.get("/experiment/ours/status").json()["job_id"] == job["id"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"experiment_id": 5}', b'{"experiment_id": "x", "a": NaN}', b"[" * 100_000]
)
def test_what_is_no_result_is_refused(service, body):
    answer = service.http.post("/experiment_result", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]


def test_with_a_secret_only_signed_pushes_are_taken(tmp_path):
    with Bitlane(tmp_path / "data", lanes="none", env={"BITLANE_PUSH_SECRET": "hush"}) as service:
        body = b'{"experiment_id": "signed"}'
        now = int(time.time())

        def push(secret, at):
            headers = {
                "webhook-id": "msg_1",
                "webhook-timestamp": str(at),
                "webhook-signature": sign(secret, "msg_1", at, body),
                "content-type": "application/json",
            }
            return httpx.post(f"{service.url}/experiment_result", content=body, headers=headers)

        assert service.http.post("/experiment_result", content=body).status_code == 401
        assert push("wrong", now).status_code == 401
        assert push("hush", now - 400).status_code == 401
        assert service.http.get("/experiment/signed/status").status_code == 404
        assert push("hush", now).status_code == 200
        assert service.http.get("/experiment/signed/status").status_code == 200


def test_from_unknown_networks_unsigned_pushes_are_refused(tmp_path):
    with Bitlane(tmp_path / "data", lanes="none", env={"BITLANE_LEGACY_NETWORKS": "10.0.0.0/8"}) as service:
        assert service.http.post("/experiment_result", json=RESULT).status_code == 401


def test_a_name_with_line_breaks_is_no_experiment_and_says_so_in_the_old_words(service):
    found = service.http.get("/experiment/a%0Ab%0Dc/status")
    assert found.status_code == 404 and found.json() == {"status": "not_found", "experiment_id": "a\nb\rc"}
