"""Repeats, waiting, conditional answers, switches on lanes, bounds: what callers meet on a busy day."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest

from app.routers.door import BodyLimit
from tests.api.test_access import calling, new_key
from tests.service import SLEEPER, Bitlane, spec, wait_for


@pytest.fixture(autouse=True)
def lanes_are_open(service) -> Iterator[None]:
    yield
    for lane in ("cpu", "gpu"):
        service.http.post(f"/lanes/{lane}/resume").raise_for_status()


def end(service: Bitlane, *answers: httpx.Response) -> None:
    for answer in answers:
        service.http.post(f"/jobs/{answer.json()['id']}/cancel")


def test_the_same_key_and_body_is_the_same_job(service):
    key = {"idempotency-key": "retry-1"}
    first = service.http.post("/jobs", json=spec(), headers=key)
    again = service.http.post("/jobs", json=spec(), headers=key)
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"] and first.headers["location"] == again.headers["location"]
    service.ended(first.json()["id"])
    late = service.http.post("/jobs", json=spec(), headers=key)
    assert late.status_code == 202 and late.json()["state"] == "succeeded"
    other = service.http.post("/jobs", json=spec(seed=5), headers=key)
    assert other.status_code == 422 and other.json()["error_type"] == "idempotency_key_reused"
    assert (
        service.http.post("/jobs", json=spec(), headers={"idempotency-key": "retry-2"}).json()["id"]
        != first.json()["id"]
    )


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9"])
def test_a_key_that_is_none_is_refused_by_name(service, key):
    answer = service.http.post("/jobs", json=spec(), headers={"idempotency-key": key.encode()})
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_many_at_once_with_one_key_are_one_job(service):
    def post(number: int) -> httpx.Response:
        return service.http.post("/jobs", json=spec(), headers={"idempotency-key": "storm"})

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(24)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error_type"] == "in_flight" and answer.json()["retryable"] is True
            assert "retry-after" in answer.headers


def test_the_old_route_knows_the_key_too(service):
    body = {"experiment_id": "keyed", "encoding_code": spec()["encoder"], "decoding_code": spec()["decoder"]}
    first, again = (service.http.post("/experiment", json=body, headers={"idempotency-key": "old-1"}) for _ in range(2))
    assert first.json()["job_id"] == again.json()["job_id"]
    other = service.http.post("/experiment", json={**body, "config": {"q": 1}}, headers={"idempotency-key": "old-1"})
    assert other.status_code == 422 and "another body" in other.json()["error"]
    end(service, service.http.get(f"/jobs/{first.json()['job_id']}"))


def test_a_caller_may_wait_for_the_end(service):
    done = service.http.post("/jobs", json=spec(), headers={"prefer": "respond-async, wait=50"})
    assert done.status_code == 200 and done.json()["state"] == "succeeded" and done.json()["report"]["points"]
    assert done.headers["preference-applied"] == "wait=50"
    slow = service.http.post("/jobs", json=spec(encoder=SLEEPER), headers={"prefer": "wait=1"})
    assert slow.status_code == 202 and slow.headers["retry-after"]
    for nonsense in ("wait=soon", "wait=-1", "return=minimal", ";;,,", "wait"):
        answer = service.http.post("/jobs", json=spec(), headers={"prefer": nonsense})
        assert answer.status_code == 202 and "preference-applied" not in answer.headers
        end(service, answer)
    end(service, slow)


def test_what_has_not_changed_is_not_sent_again(service):
    job = service.run()
    whole = service.http.get(f"/jobs/{job['id']}")
    tag = whole.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = service.http.get(f"/jobs/{job['id']}", headers={"if-none-match": known})
        assert same.status_code == 304 and same.content == b"" and same.headers["etag"] == tag
    assert service.http.get(f"/jobs/{job['id']}", headers={"if-none-match": '"other"'}).status_code == 200
    report = service.http.get(f"/jobs/{job['id']}/report")
    assert (
        service.http.get(f"/jobs/{job['id']}/report", headers={"if-none-match": report.headers["etag"]}).status_code
        == 304
    )
    running = service.submit(encoder=SLEEPER)
    before = service.http.get(f"/jobs/{running['id']}").headers["etag"]
    service.http.post(f"/jobs/{running['id']}/cancel")
    service.ended(running["id"])
    assert service.http.get(f"/jobs/{running['id']}", headers={"if-none-match": before}).status_code == 200


def test_a_batch_is_answered_one_by_one_in_its_order(service):
    bodies = [spec(seed=1), {"encoder": "x"}, spec(device="tpu"), spec(seed=2), "not a spec"]
    wrong = service.http.post("/jobs/batch", json={"jobs": bodies})
    assert wrong.status_code == 422
    answer = service.http.post("/jobs/batch", json={"jobs": bodies[:4]}, headers={"idempotency-key": "batch"})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [202, 422, 422, 202]
    assert results[1]["problem"]["errors"][0]["field"] == "decoder"
    assert "tpu" in results[2]["problem"]["detail"]
    again = service.http.post("/jobs/batch", json=bodies[:4], headers={"idempotency-key": "batch"}).json()["results"]
    assert [again[n]["job"]["id"] for n in (0, 3)] == [results[n]["job"]["id"] for n in (0, 3)]
    for count in (0, 101):
        assert service.http.post("/jobs/batch", json={"jobs": [spec()] * count}).status_code == 422


def state_of(service: Bitlane, lane: str) -> dict[str, object]:
    return {entry["name"]: entry for entry in service.http.get("/lanes").json()["lanes"]}[lane]


def test_a_paused_lane_starts_nothing_until_it_is_resumed(service):
    paused = service.http.post("/lanes/cpu/pause")
    assert paused.status_code == 200 and paused.json()["state"] == "paused"
    waits = [service.submit(device="cpu", seed=n) for n in range(2)]
    elsewhere = service.submit(device="auto")
    assert service.ended(elsewhere["id"])["lane"] == "gpu"
    assert [service.job(job["id"])["state"] for job in waits] == ["queued", "queued"]
    assert [service.job(job["id"])["queue_position"] for job in waits] == [0, 1]
    assert state_of(service, "cpu")["depth"] == 2
    assert service.http.post("/lanes/cpu/resume").json()["mode"] == "open"
    assert {service.ended(job["id"])["state"] for job in waits} == {"succeeded"}
    assert service.http.post("/lanes/tpu/pause").status_code == 404
    assert service.http.post("/lanes/..%2f/pause").status_code in (404, 422)


def test_what_runs_on_a_lane_that_is_paused_runs_on(service):
    running = service.submit(device="cpu", encoder=SLEEPER.replace("60", "1"), decoder=spec()["decoder"])
    wait_for(lambda: service.job(running["id"])["state"] == "running", within_s=30, what="the job to run")
    assert service.http.post("/lanes/cpu/pause").json()["working"] == 1
    assert service.ended(running["id"])["state"] == "failed", "its empty bitstream cannot be decoded"
    assert service.job(running["id"])["attempt"] == 1


def test_a_lane_that_is_drained_runs_what_it_alone_can_and_takes_no_more(service):
    service.http.post("/lanes/cpu/pause")
    mine = service.submit(device="cpu")
    drained = service.http.post("/lanes/cpu/drain")
    assert drained.json()["mode"] == "draining"
    assert service.ended(mine["id"])["state"] == "succeeded"
    refused = service.http.post("/jobs", json=spec(device="cpu", seed=9))
    assert refused.status_code == 503 and refused.json()["error_type"] == "draining" and refused.headers["retry-after"]
    assert service.ended(service.submit(device="auto", seed=9)["id"])["lane"] == "gpu"
    assert service.http.get("/readyz").status_code == 200


def test_switches_outlive_the_service(tmp_path):
    with Bitlane(tmp_path / "data", lanes="cpu=cpu,gpu=cpu") as service:
        service.http.post("/lanes/gpu/pause").raise_for_status()
        waits = service.submit(device="gpu")
        service.kill()
        service.start()
        assert state_of(service, "gpu")["state"] == "paused"
        assert service.job(waits["id"])["state"] == "queued"
        service.http.post("/lanes/gpu/resume").raise_for_status()
        assert service.ended(waits["id"])["state"] == "succeeded"


def test_bounds_of_the_queue_and_of_a_lane_are_kept_and_say_when_to_come_back(tmp_path):
    env = {"BITLANE_MAX_QUEUED": "6", "BITLANE_MAX_QUEUED_PER_LANE": "4"}
    with Bitlane(tmp_path / "data", lanes="cpu=cpu,gpu=cpu", env=env) as service:
        service.run()
        for lane in ("cpu", "gpu"):
            service.http.post(f"/lanes/{lane}/pause")
        with ThreadPoolExecutor(8) as pool:
            on_cpu = list(pool.map(lambda n: service.http.post("/jobs", json=spec(device="cpu", seed=n)), range(10)))
        assert sorted(answer.status_code for answer in on_cpu) == [202] * 4 + [429] * 6
        refused = next(answer for answer in on_cpu if answer.status_code == 429)
        assert "lane cpu" in refused.json()["detail"] and 1 <= int(refused.headers["retry-after"]) <= 30
        assert service.http.get("/status").json()["is_processing"] is False
        on_gpu = [service.http.post("/jobs", json=spec(device="gpu", seed=n)) for n in range(3)]
        assert [answer.status_code for answer in on_gpu] == [202, 202, 429]
        assert service.http.get("/status").json()["is_processing"] is True
        repeated = service.http.put(f"/jobs/{on_gpu[0].json()['id']}", json=spec(device="gpu", seed=0))
        assert repeated.status_code == 202, "a job that is there already is not one more"
        old = service.http.post(
            "/experiment",
            json={"experiment_id": "x", "encoding_code": spec()["encoder"], "decoding_code": spec()["decoder"]},
        )
        assert old.status_code == 429 and old.headers["retry-after"]


def test_one_client_with_many_jobs_does_not_hold_up_another(tmp_path):
    """The other's single job starts after at most one more of the many."""
    keys = {name: new_key(tmp_path / "data", name) for name in ("many", "one")}
    with Bitlane(tmp_path / "data", key=keys["many"]) as service, calling(service, keys["one"]) as one:
        flood = [service.submit(seed=n, clips=["carphone"], frames={"start": 0, "count": 1}) for n in range(60)]
        job = one.post("/jobs", json=spec()).json()
        assert job["queue_position"] in (0, 1, None)
        assert one.get(f"/jobs/{job['id']}?wait=60").json()["state"] == "succeeded"
        started = one.get(f"/jobs/{job['id']}").json()
        between = [
            entry["id"]
            for entry in (service.job(job["id"]) for job in flood)
            if entry["started_at"] is not None and started["created_at"] < entry["started_at"] < started["started_at"]
        ]
        assert len(between) <= 1


async def test_a_body_that_does_not_come_in_time_is_given_up():
    answers: list[dict[str, Any]] = []

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        raise AssertionError("the body was never whole")

    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Any:
        return parts.pop() if parts else await asyncio.sleep(60)

    async def send(message: Any) -> None:
        answers.append(message)

    await BodyLimit(reads, max_bytes=100, within_s=0.1)({"type": "http", "headers": []}, receive, send)
    assert answers[0]["status"] == 408 and b"0.1 s" in answers[1]["body"]


async def test_once_the_body_is_there_the_answer_may_take_its_time():
    answers: list[dict[str, Any]] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    parts = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Any:
        return parts.pop() if parts else await asyncio.sleep(60)

    async def send(message: Any) -> None:
        answers.append(message)

    await BodyLimit(slow, max_bytes=100, within_s=0.1)({"type": "http", "headers": []}, receive, send)
    assert answers[0]["status"] == 200
