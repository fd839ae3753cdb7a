"""The native routes, from outside."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service import DECODER, ENCODER, SLEEPER, spec

TERMINAL = ("succeeded", "failed", "cancelled")


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status and body["title"] and body["detail"] and body["error_type"]
    assert isinstance(body["retryable"], bool)
    return body


def fields(answer):
    return {error["field"]: error for error in problem(answer, 422)["errors"]}


def test_a_submission_is_accepted_run_and_measured(service):
    answer = service.http.post("/jobs", json=spec(experiment_id="first", labels={"run": "a"}))
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert answer.headers["retry-after"] == "1"
    assert (job["state"], job["experiment_id"], job["report"]) == ("queued", "first", None)
    assert job["labels"] == {"run": "a"}
    done = service.ended(job["id"])
    assert done["state"] == "succeeded", done["error"]
    assert done["attempt"] == 1 and done["device"] == "cpu" and done["device_name"]
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert done["created_at"].endswith("Z")
    assert (done["fault"], done["error"], done["queue_position"]) == (None, None, None)
    (point,) = done["report"]["points"]
    assert (point["clip"], point["frames"], point["width"], point["height"]) == ("carphone", 2, 176, 144)
    assert point["lossless"] is True
    assert point["bitrate_kbps"] == pytest.approx(point["bitstream_bytes"] * 8 * point["fps"] / 2000)
    assert point["bpp"] == pytest.approx(point["bitstream_bytes"] * 8 / (176 * 144 * 2))
    assert point["compression_ratio"] == pytest.approx(176 * 144 * 1.5 * 2 / point["bitstream_bytes"])
    assert point["encode_s"] > 0 and point["decode_s"] > 0
    assert service.http.get(f"/jobs/{job['id']}/report").json() == done["report"]


def test_every_rate_point_and_clip_is_measured(service):
    job = service.run(clips=["carphone", "bikes"], rate_points=[{"quality": 1}, {"quality": 2}], device="cpu")
    assert job["state"] == "succeeded", job["error"]
    assert [(p["clip"], p["rate_point"], p["params"]) for p in job["report"]["points"]] == [
        ("carphone", 0, {"quality": 1}),
        ("carphone", 1, {"quality": 2}),
        ("bikes", 0, {"quality": 1}),
        ("bikes", 1, {"quality": 2}),
    ]


def test_two_lanes_run_at_the_same_time_and_a_gpu_lane_on_the_cpu_says_so(service):
    long = service.submit(encoder=SLEEPER, device="cpu")
    short = service.run(device="gpu")
    assert short["state"] == "succeeded" and short["lane"] == "gpu"
    assert service.job(long["id"])["state"] == "running"
    assert "stands on the CPU" in json.dumps(short["report"]["provenance"])
    lanes = {lane["name"]: lane for lane in service.http.get("/lanes").json()["lanes"]}
    assert lanes["cpu"]["state"] == "working" and lanes["cpu"]["note"] is None
    assert lanes["gpu"]["kind"] == "cpu" and "CPU" in lanes["gpu"]["note"]
    service.http.post(f"/jobs/{long['id']}/cancel")
    assert service.ended(long["id"])["state"] == "cancelled"


def test_cancelling(service):
    running = service.submit(encoder=SLEEPER, device="cpu")
    queued = service.submit(device="cpu")
    while service.job(running["id"])["state"] != "running":
        time.sleep(0.02)
    assert service.job(queued["id"])["queue_position"] == 0
    answer = service.http.post(f"/jobs/{queued['id']}/cancel")
    assert answer.status_code == 202 and answer.json()["state"] == "cancelled"
    body = problem(service.http.post(f"/jobs/{queued['id']}/cancel"), 409)
    assert body["state"] == "cancelled" and not body["retryable"]
    begun = time.monotonic()
    assert service.http.post(f"/jobs/{running['id']}/cancel").status_code == 202
    ended = service.ended(running["id"])
    assert ended["state"] == "cancelled" and time.monotonic() - begun < 5
    assert service.run(device="cpu")["state"] == "succeeded"


def test_put_with_ones_own_id_is_safe_to_repeat(service):
    first = service.http.put("/jobs/my-own_id.1", json=spec())
    again = service.http.put("/jobs/my-own_id.1", json=spec())
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"] == "my-own_id.1"
    problem(service.http.put("/jobs/my-own_id.1", json=spec(seed=1)), 409)
    assert service.ended("my-own_id.1")["state"] == "succeeded"


def test_the_same_experiment_while_it_is_active(service):
    first = service.submit(encoder=SLEEPER, device="cpu", experiment_id="twice")
    assert service.submit(encoder=SLEEPER, device="cpu", experiment_id="twice")["id"] == first["id"]
    problem(service.http.post("/jobs", json=spec(experiment_id="twice")), 409)
    service.http.post(f"/jobs/{first['id']}/cancel")
    service.ended(first["id"])
    fresh = service.submit(experiment_id="twice")
    assert fresh["id"] != first["id"]
    service.ended(fresh["id"])


def test_a_burst_of_submissions_is_all_accepted(service):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: service.http.post("/jobs", json=spec(seed=n, metrics=["psnr"])), range(24)))
    assert {answer.status_code for answer in answers} == {202}
    ids = [answer.json()["id"] for answer in answers]
    assert len(set(ids)) == 24
    assert {service.ended(job_id)["state"] for job_id in ids} == {"succeeded"}


def test_lists_and_filters(service):
    done = service.run(experiment_id="listed")
    page = service.http.get("/jobs", params={"experiment_id": "listed"}).json()
    assert [job["id"] for job in page["jobs"]] == [done["id"]]
    assert page["jobs"][0]["report"] is None and page["cursor"] is None
    first = service.http.get("/jobs", params={"limit": 2, "state": "succeeded"}).json()
    second = service.http.get("/jobs", params={"limit": 2, "state": "succeeded", "cursor": first["cursor"]}).json()
    ids = [job["id"] for job in (*first["jobs"], *second["jobs"])]
    assert len(ids) == len(set(ids)) == 4
    assert "cursor" in fields(service.http.get("/jobs", params={"cursor": "x'; DROP TABLE jobs"}))
    assert "state" in fields(service.http.get("/jobs", params={"state": "sleeping"}))
    assert "limit" in fields(service.http.get("/jobs", params={"limit": 0}))


def test_unknown_jobs_and_routes(service):
    assert "nobody" in problem(service.http.get("/jobs/nobody"), 404)["detail"]
    problem(service.http.post("/jobs/nobody/cancel"), 404)
    problem(service.http.get("/jobs/nobody/report"), 404)
    problem(service.http.get("/no/such/route"), 404)
    problem(service.http.delete("/jobs/nobody"), 405)


def test_a_report_that_is_not_there_yet(service):
    job = service.submit(encoder=SLEEPER, device="cpu")
    problem(service.http.get(f"/jobs/{job['id']}/report"), 409)
    problem(service.http.post(f"/jobs/{job['id']}/redeliver"), 409)
    service.http.post(f"/jobs/{job['id']}/cancel")


def test_a_dry_run_queues_nothing(service):
    before = len(service.http.get("/jobs", params={"limit": 500}).json()["jobs"])
    answer = service.http.post("/jobs", params={"dry_run": 1}, json=spec(rate_points=[{}, {}]))
    assert answer.status_code == 200
    body = answer.json()
    assert body["contract"] == "native" and body["lanes"] == ["cpu", "gpu"] and body["rate_points"] == 2
    assert body["clips"] == [{"name": "carphone", "frames": 2, "width": 176, "height": 144}]
    assert "suite" in fields(service.http.post("/jobs", params={"dry_run": 1}, json=spec(suite="nope")))
    assert len(service.http.get("/jobs", params={"limit": 500}).json()["jobs"]) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"encoder": ""}, "encoder"),
        ({"decoder": " \n\t"}, "decoder"),
        ({"encoder": None}, "encoder"),
        ({"encoder": 5}, "encoder"),
        ({"encoder": "#" * (256 * 1024 + 1)}, "encoder"),
        ({"encoder": "def encode(frames, ctx:\n  pass"}, "encoder"),
        ({"decoder": "x = 1\n\0"}, "decoder"),
        ({"encoder": "(" * 100_000}, "encoder"),
        ({"encoder": "x = 1\n"}, "encoder"),
        ({"device": "tpu"}, "device"),
        ({"device": 1}, "device"),
        ({"suite": "nope"}, "suite"),
        ({"clips": ["nope"]}, "clips.0"),
        ({"clips": []}, "clips"),
        ({"clips": "carphone"}, "clips"),
        ({"rate_points": []}, "rate_points"),
        ({"rate_points": [{}] * 33}, "rate_points"),
        ({"rate_points": [5]}, "rate_points.0"),
        ({"rate_points": [{"q": 2**70}]}, "rate_points"),
        ({"frames": {"start": -1}}, "frames.start"),
        ({"frames": {"start": 0, "count": 0}}, "frames.count"),
        ({"frames": {"start": 119, "count": 2}}, "frames"),
        ({"frames": 5}, "frames"),
        ({"metrics": ["beauty"]}, "metrics.0"),
        ({"metrics": []}, "metrics"),
        ({"limits": {"wall_s": 1e9}}, "limits.wall_s"),
        ({"limits": {"wall_s": 0}}, "limits.wall_s"),
        ({"limits": {"wall_s": "60"}}, "limits.wall_s"),
        ({"limits": {"speed": 1}}, "limits.speed"),
        ({"priority": 11}, "priority"),
        ({"priority": True}, "priority"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"deliver_to": "elsewhere"}, "deliver_to"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"experiment_id": ""}, "experiment_id"),
        ({"experiment_id": "a\nb"}, "experiment_id"),
        ({"contract": "telepathy"}, "contract"),
        ({"baselines": ["x265"]}, "baselines"),
        ({"targets": {"psnr_yuv": {"min": 35}}}, "targets"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_is_named(service, changes, field):
    assert field in fields(service.http.post("/jobs", json=spec(**changes)))


def test_missing_code_is_named(service):
    assert set(fields(service.http.post("/jobs", json={}))) == {"encoder", "decoder"}


def test_a_syntax_error_has_line_and_column(service):
    error = fields(
        service.http.post("/jobs", json=spec(encoder="import math\n\ndef encode(frames, ctx):\n    return (1\n"))
    )
    assert (error["encoder"]["line"], error["encoder"]["column"]) == (4, 12)


def test_the_legacy_names_of_the_code_fields_are_taken_and_used_in_errors(service):
    body = {**spec(), "encoding_agent_code": ENCODER, "decoding_code": DECODER}
    del body["encoder"], body["decoder"]
    assert service.ended(service.http.post("/jobs", json=body).json()["id"])["state"] == "succeeded"
    body["decoding_code"] = "def decode(:"
    assert set(fields(service.http.post("/jobs", json=body))) == {"decoding_code"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"5",
        b'"x"',
        b"null",
        b"\xff\xfe",
        b'{"encoder": "\\ud800", "decoder": "x"}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_spec(service, body):
    answer = service.http.post("/jobs", content=body, headers={"content-type": "application/json"})
    problem(answer, 422)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_numbers_that_json_does_not_have(service, number):
    body = json.dumps(spec(rate_points=[{"q": 12345}])).replace("12345", number)
    problem(service.http.post("/jobs", content=body, headers={"content-type": "application/json"}), 422)


def test_a_body_that_is_not_json_by_its_type(service):
    problem(service.http.post("/jobs", content=b"encoder=1", headers={"content-type": "text/plain"}), 415)
    problem(service.http.post("/jobs", data={"encoder": "1"}), 415)


def test_a_body_over_the_limit(service):
    problem(service.http.post("/jobs", json=spec(labels={"a": "b" * 5_000_000})), 413)

    def endless():
        for _ in range(200):
            yield b" " * 65536

    problem(service.http.post("/jobs", content=endless(), headers={"content-type": "application/json"}), 413)


def test_a_web_page_cannot_reach_the_service_through_the_users_browser(service):
    problem(service.http.get("/jobs", headers={"host": "evil.example"}), 421)
    problem(service.http.post("/jobs", json=spec(), headers={"origin": "https://evil.example"}), 403)
    assert service.http.get("/jobs", headers={"origin": service.url}).status_code == 200


def decoder_of(expression):
    """A decoder for two frames of 144x176 that returns what the expression makes."""
    return f"import torch\n\ndef decode(bitstream, ctx):\n    return {expression}\n"


CODE, LIMIT = "code", "limit"
AT_IMPORT = "raise RuntimeError('no')\n\ndef encode(frames, ctx): ...\n"
SHAPE = decoder_of("torch.zeros(2, 3, 144, 175, dtype=torch.uint8)")
DTYPE = decoder_of("torch.zeros(2, 3, 144, 176)")
COUNT = decoder_of("torch.zeros(1, 3, 144, 176, dtype=torch.uint8)")
NAN = decoder_of("torch.full((2, 3, 144, 176), float('nan'))")
KILLED = "import os\ndef encode(frames, ctx):\n    os.kill(os.getpid(), 9)\n"
FAILING = {
    "raises": ("def encode(frames, ctx):\n    return 1 / 0\n", DECODER, CODE, "exception", "encode"),
    "raises at import": (AT_IMPORT, DECODER, CODE, "exception", "load"),
    "returns no bytes": ("def encode(frames, ctx):\n    return 'text'\n", DECODER, CODE, "invalid_output", "encode"),
    "wrong shape": (ENCODER, SHAPE, CODE, "invalid_output", "decode"),
    "wrong dtype": (ENCODER, DTYPE, CODE, "invalid_output", "decode"),
    "wrong count": (ENCODER, COUNT, CODE, "invalid_output", "decode"),
    "not a number": (ENCODER, NAN, CODE, "invalid_output", "decode"),
    "never returns": ("def encode(frames, ctx):\n    while True: pass\n", DECODER, LIMIT, "wall_time_limit", "encode"),
    "takes all memory": (
        "def encode(f, ctx):\n    return bytes(3 * 2**30)\n",
        DECODER,
        LIMIT,
        "memory_limit",
        "encode",
    ),
    "dies": (KILLED, DECODER, CODE, "signalled", "encode"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_submission_that_fails_says_how_and_the_next_job_runs(service, name):
    encoder, decoder, fault, error_type, stage = FAILING[name]
    limits = {"wall_s": 1.5, "memory_bytes": 1024**3}
    job = service.run(encoder=encoder, decoder=decoder, limits=limits, device="cpu")
    error = job["error"]
    assert (job["state"], job["fault"], job["error_type"]) == ("failed", fault, error_type), error
    assert (error["stage"], error["clip"], error["rate_point"]) == (stage, "carphone", 0)
    if error_type == "exception":
        assert "coder.py" in error["traceback"] and "/app/" not in error["traceback"]
    if fault == "limit":
        assert error["limit"] and error["used"] is not None
    assert service.run(device="cpu")["state"] == "succeeded"
