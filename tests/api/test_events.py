"""A job's history as a stream: replayed, live, resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from tests.service import SLEEPER, Bitlane, wait_for

Message: TypeAlias = tuple[str, int | None, dict[str, Any]]


def messages(service: Bitlane, job_id: str, after: int | None = None) -> Iterator[Message]:
    headers = {} if after is None else {"last-event-id": str(after)}
    with service.http.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                number = int(fields["id"]) if "id" in fields else None
                yield fields["event"], number, json.loads(fields["data"])
                fields = {}


def test_the_history_is_replayed_and_ends_with_the_final_state(service):
    job = service.run()
    found = list(messages(service, job["id"]))
    assert found[-1] == ("done", None, {"job_id": job["id"], "state": "succeeded"})
    assert [number for _, number, _ in found[:-1]] == list(range(1, len(found)))
    assert [data["state"] for _, _, data in found[:3]] == ["queued", "running", "succeeded"]
    assert next(messages(service, job["id"], after=2))[1] == 3
    assert [kind for kind, _, _ in messages(service, job["id"], after=99)] == ["done"]


def test_changes_come_as_they_happen(service):
    job = service.submit(encoder=SLEEPER)
    stream = messages(service, job["id"])
    seen = [next(stream)]
    while seen[-1][2]["state"] != "running":
        seen.append(next(stream))
    service.http.post(f"/jobs/{job['id']}/cancel").raise_for_status()
    seen += list(stream)
    told = [data["event"] for kind, _, data in seen if kind == "state"]
    assert told[:3] == ["Submitted", "Claimed", "CancelRequested"]
    assert seen[-1][0] == "done" and seen[-1][2]["state"] == "cancelled"


def test_a_stop_of_the_service_ends_the_stream(tmp_path):
    with Bitlane(tmp_path / "data") as service:
        job = service.submit(encoder=SLEEPER)
        wait_for(lambda: service.job(job["id"])["state"] == "running", within_s=60, what="the job to run")
        stream = messages(service, job["id"])
        assert next(stream)[1] == 1
        service.process.terminate()
        assert all(kind == "state" for kind, _, _ in stream)
        assert service.process.wait(timeout=30) == 0


def test_unknown_jobs_and_numbers(service):
    assert service.http.get("/jobs/none/events").status_code == 404
    job = service.run()
    assert service.http.get(f"/jobs/{job['id']}/events", headers={"last-event-id": "x"}).status_code == 422
