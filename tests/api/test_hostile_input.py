"""Bodies, names, cursors and headers that nobody sends by accident: refused by name, and nothing is harmed."""

from __future__ import annotations

import gzip
import http.client
import json
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.api.test_access import calling, new_key
from tests.service import DECODER, ENCODER, Bitlane, spec

JSON = {"content-type": "application/json"}
NATIVE = (("POST", "/jobs"), ("PUT", "/jobs/hostile"), ("POST", "/jobs/batch"), ("POST", "/session"))
OLD = (("POST", "/experiment"), ("POST", "/experiment_result"))
HALF = "\ud800"
drawn = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def old_body(**changes: Any) -> dict[str, Any]:
    return {"experiment_id": "old", "encoding_code": ENCODER, "decoding_code": DECODER, **changes}


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Iterator[Bitlane]:
    """A service that accepts jobs and runs none until all is over: then an honest one must go through."""
    with Bitlane(tmp_path_factory.mktemp("hostile") / "data", lanes="cpu=cpu") as service:
        service.http.post("/lanes/cpu/pause").raise_for_status()
        yield service
        for job in service.http.get("/jobs", params={"limit": 500, "state": "queued"}).json()["jobs"]:
            service.http.post(f"/jobs/{job['id']}/cancel")
        service.http.post("/lanes/cpu/resume").raise_for_status()
        assert service.run()["state"] == "succeeded"
        log = service.log.read_text()
        assert "Traceback" not in log and " ERROR " not in log


@pytest.fixture(autouse=True)
def unharmed(target) -> Iterator[None]:
    yield
    assert target.http.post("/jobs?dry_run=1", json=spec()).status_code == 200


def send(service: Bitlane, route: tuple[str, str], body: bytes | str, **headers: str) -> httpx.Response:
    return service.http.request(*route, content=body, headers={**JSON, **headers})


def refused(answer: httpx.Response, *statuses: int) -> str:
    """The sentence of a refusal, which has the form that every refusal has."""
    assert answer.status_code in (statuses or (422,)), (answer.status_code, answer.text[:500])
    told = answer.json()
    if answer.headers["content-type"] == "application/json":
        assert set(told) == {"error"} and told["error"]
        return str(told["error"])
    assert answer.headers["content-type"] == "application/problem+json"
    assert told["status"] == answer.status_code and told["detail"] and told["retryable"] is False
    return str(told["detail"])


@pytest.mark.parametrize("route", NATIVE + OLD, ids=str)
@drawn
@given(body=st.binary(max_size=300))
@example(body=b"\xef\xbb\xbf")
@example(body=b'{"a":\xed\xa0\x80}')
@example(body=b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.")
@example(body=b"\x1f\x8b\x08\x00")
def test_random_bytes_are_no_body(target, route, body):
    refused(send(target, route, body), 400, 422)


DEEP = 100_000
UNREADABLE = {
    "deep lists": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"a":' * 80_000 + "1" + "}" * 80_000,
    "never closed": "[" * DEEP,
    "deep inside": '{"experiment_id":"e","key":"k","encoder":' + "[" * DEEP + "]" * DEEP + "}",
    "more digits than are read": '{"experiment_id":"e","key":"k","seed":' + "9" * 5000 + "}",
    "latin-1": '{"key":"é"}'.encode("latin-1"),
    "utf-16": '{"key":"k"}'.encode("utf-16"),
    "half a pair in utf-8": b'{"key":"\xed\xa0\x80"}',
    "overlong": b'{"key":"\xc0\xaf"}',
    "two values": "{}{}",
    "a comment": '{"key":"k"} // ',
    "a comma": '{"key":"k",}',
    "single quotes": "{'key':'k'}",
}


@pytest.mark.parametrize("route", NATIVE + OLD, ids=str)
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_said_to_be_no_json(target, route, name):
    detail = refused(send(target, route, UNREADABLE[name]), 400, 422, 413)
    assert "not JSON" in detail or "over the limit" in detail


@pytest.mark.parametrize("route", NATIVE + OLD, ids=str)
def test_a_name_that_is_there_twice_is_named(target, route):
    bodies = ['{"key":"a","key":"b"}', '{"jobs":[{"encoder":"a","encoder":"b"}]}', '{"a":{"b":[{"c":1,"c":1}]}}']
    for body, name in zip(bodies, ("key", "encoder", "c"), strict=True):
        assert f"{name!r} is there twice" in refused(send(target, route, body), 400, 422)


TEXTS: dict[str, Any] = {
    "encoder": "@",
    "decoder": "@",
    "experiment_id": "@",
    "contract": "@",
    "device": "@",
    "suite": "@",
    "deliver_to": "@",
    "clips": ["@"],
    "metrics": ["@"],
    "baselines": ["@"],
    "labels": {"a": "@"},
    "targets": {"a": "@"},
    "frames": {"start": "@"},
    "limits": {"wall_s": "@"},
    "priority": "@",
    "seed": "@",
}


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize("text", [HALF, "a" + HALF + "b", "a\0b", "\0"], ids=ascii)
def test_half_a_pair_or_a_nul_in_any_text_is_named(target, field, text):
    body = json.dumps(spec(**{field: TEXTS[field]})).replace("@", json.dumps(text)[1:-1])
    answer = send(target, ("POST", "/jobs"), body)
    refused(answer)
    assert answer.json()["errors"][0]["field"].partition(".")[0] == field
    batch = send(target, ("POST", "/jobs/batch"), f'{{"jobs":[{body}]}}')
    (result,) = batch.json()["results"]
    assert result["status"] == 422 and result["problem"]["errors"][0]["field"].partition(".")[0] == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"labels": {HALF: "v"}}, "labels"),
        ({"labels": {"\0": "v"}}, "labels"),
        ({"rate_points": [{HALF: 1}]}, "rate_points"),
        ({"rate_points": [{"a": [{"b": HALF}]}]}, "rate_points"),
        ({"frames": {HALF: 1}}, "frames"),
        ({"limits": {HALF: 1}}, "limits"),
        ({HALF: 1}, "body"),
    ],
    ids=ascii,
)
def test_half_a_pair_in_a_name_is_refused(target, changes, field):
    answer = send(target, ("POST", "/jobs"), json.dumps(spec(**changes)))
    refused(answer)
    assert answer.json()["errors"][0]["field"].partition(".")[0] == field


@pytest.mark.parametrize("name", ["experiment_id", "encoding_code", "decoding_code", "device", "config", "hypothesis"])
@pytest.mark.parametrize("route", OLD, ids=str)
def test_half_a_pair_in_the_old_routes(target, route, name):
    value = {"a": HALF} if name == "config" else HALF
    refused(send(target, route, json.dumps(old_body(**{name: value}))), 400)


NUMBERS = [
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "1" + "0" * 400,
    "-" + "9" * 4000,
    "1.5",
    "1e-400",
    "-0.5",
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
def test_numbers_out_of_this_world_are_named(target, number):
    places: dict[str, Any] = {
        "seed": 12345,
        "priority": 12345,
        "frames": {"count": 12345},
        "limits": {"memory_bytes": 12345},
    }
    for field, value in places.items():
        body = json.dumps(spec(**{field: value})).replace("12345", number)
        answer = send(target, ("POST", "/jobs"), body)
        # The one that is too small to be written is zero, which a seed and a priority may be.
        if number == "1e-400" and field in ("seed", "priority"):
            assert answer.status_code == 202
            continue
        refused(answer)
        assert answer.json()["errors"][0]["field"].partition(".")[0] == field
    if "." not in number and number != "1e-400":
        body = json.dumps(spec(rate_points=[{"q": 12345}])).replace("12345", number)
        assert "rate_points" in refused(send(target, ("POST", "/jobs"), body))
        old = json.dumps(old_body(config={"q": 12345})).replace("12345", number)
        assert "config" in refused(send(target, ("POST", "/experiment"), old), 400)
    for wait in (number, f"{number}s"):
        if number not in ("1.5", "1e-400"):
            assert refused(target.http.get("/jobs/x", params={"wait": wait})).startswith("wait")


def test_whole_numbers_may_be_written_with_a_point(target):
    job = target.http.post("/jobs", json=spec(seed=5.0, priority=-1.0, frames={"start": 0.0, "count": 2.0}))
    assert job.status_code == 202 and job.json()["priority"] == -1


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=()), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@drawn
@given(field=st.sampled_from([*TEXTS, "rate_points", "surprise"]), value=json_values)
def test_any_value_in_any_field_is_taken_or_named(target, field, value):
    answer = send(target, ("POST", "/jobs?dry_run=1"), json.dumps(spec(**{field: value})))
    if answer.status_code != 200:
        refused(answer)
        assert {error["field"].partition(".")[0] for error in answer.json()["errors"]} <= {field, "body"}


@drawn
@given(
    changes=st.dictionaries(st.sampled_from(["experiment_id", "encoding_code", "device", "config", "x"]), json_values)
)
def test_any_value_in_the_old_routes_is_taken_or_refused(target, changes):
    for route in OLD:
        answer = send(target, route, json.dumps(old_body(**changes)))
        if answer.status_code not in (200, 202):
            refused(answer, 400, 409)


@pytest.mark.parametrize("route", NATIVE + OLD, ids=str)
def test_ten_megabytes_in_one_text(target, route):
    assert "over the limit" in refused(send(target, route, '{"experiment_id":"' + "a" * 10_000_000 + '"}'), 413)


TYPES = [
    "",
    "text/plain",
    "application/xml",
    "multipart/form-data; boundary=x",
    "application/json/x",
    "a" * 5000,
    "\x80",
]


@pytest.mark.parametrize("route", NATIVE, ids=str)
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: ascii(kind[:12]))
def test_a_body_of_another_type(target, route, kind):
    headers = {"content-type": kind.encode("latin-1")}
    answer = target.http.request(*route, content=json.dumps(spec()), headers=headers)
    assert "application/json" in refused(answer, 415)


@pytest.mark.parametrize("route", NATIVE + OLD, ids=str)
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate, gzip", "identity, gzip", "x" * 300])
def test_a_compressed_body_is_not_unpacked(target, route, coding):
    bomb = gzip.compress(b" " * 3_000_000 + json.dumps(spec()).encode())
    answer = send(target, route, bomb, **{"content-encoding": coding})
    assert "content-encoding" in refused(answer, 415) and answer.headers["accept-encoding"] == "identity"


TRICKS = [
    *("..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f", "%2f", "%5c..%5c", "%00", "a%00.json", "%c0%ae%c0%ae"),
    *("%e0%80%af", "%ff", "%ed%a0%80", "a;b", "a%3bb", "%20", "a%0ab", "%0d%0aset-cookie:x", "%D0%B0bc", "%E2%80%AE"),
    *(
        "%F0%9F%92%A9",
        "%EF%BC%8E%EF%BC%8E",
        "%e2%88%95",
        "%25",
        "%252e%252e",
        "*",
        "%zz",
        "a%",
        "'%20OR%201=1--",
        "-",
        "~",
    ),
    "a" * 10_000,
]
NAMED = [
    *(("GET", "/jobs/{}"), ("GET", "/jobs/{}/events"), ("GET", "/jobs/{}/report"), ("POST", "/jobs/{}/cancel")),
    *(("POST", "/jobs/{}/redeliver"), ("PUT", "/jobs/{}"), ("POST", "/lanes/{}/pause")),
    *(("POST", "/lanes/{}/drain"), ("GET", "/experiment/{}/status")),
]


def exactly(service: Bitlane, method: str, path: str, body: Any = None) -> httpx.Response:
    """Without the tidying that a client does to a path."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=70)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), JSON)
        answer = connection.getresponse()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: ascii(trick[:16]))
def test_path_tricks_reach_nothing(target, trick):
    for method, path in NAMED:
        answer = exactly(target, method, path.format(trick), spec() if method == "PUT" else None)
        assert answer.status_code in (404, 405, 422), (method, path, answer.text)
        if answer.headers["content-type"] == "application/problem+json":
            refused(answer, answer.status_code)
        assert "root:" not in answer.text and "set-cookie" not in answer.headers


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: ascii(trick[:16]))
def test_tricks_in_questions_find_nothing(target, trick):
    for name in ("lane", "experiment_id", "state", "limit", "cursor"):
        answer = exactly(target, "GET", f"/jobs?{name}={trick}")
        if answer.status_code == 200 and name in ("lane", "experiment_id"):
            assert answer.json()["jobs"] == []
        else:
            assert refused(answer).startswith(name)


@pytest.mark.parametrize("field", ["suite", "device", "deliver_to", "contract", "clips", "metrics"])
@pytest.mark.parametrize(
    "name", ["../demo", "demo/../demo", "/etc/passwd", "d\u0435mo", "demo\0", "demo ", "a" * 10_000]
)
def test_tricks_in_names_of_the_body(target, field, name):
    answer = target.http.post("/jobs", json=spec(**{field: [name] if field in ("clips", "metrics") else name}))
    assert refused(answer).startswith(field)


def cursor_of(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).decode().rstrip("=")


FORGED: list[Any] = [
    *([10**400, "x"], b'[1e400,"x"]', b'[NaN,"x"]', b'[-Infinity,"x"]', ["1", "x"], [True, "x"], [None, "x"], [1, 2]),
    *({"0": 1, "1": 2}, {}, [], [1], [1, "a", 2], [[1], "a"], [1, HALF], "ab", 5, b"\xff\xff", b"[" * 300, b"{}{}"),
]


@pytest.mark.parametrize("value", FORGED, ids=lambda value: ascii(value)[:24])
def test_a_forged_cursor_is_named(target, value):
    assert refused(target.http.get("/jobs", params={"cursor": cursor_of(value)})).startswith("cursor")


@pytest.mark.parametrize("text", ["", "=", "====", "!!", "a", "é", "\0", "%", cursor_of([1, "x"]) + "*", "A" * 513])
def test_what_is_no_cursor_is_named(target, text):
    assert refused(target.http.get("/jobs", params={"cursor": text})).startswith("cursor")


def test_a_cursor_opens_no_door_to_others_jobs(tmp_path):
    keys = {name: new_key(tmp_path / "data", name) for name in ("alice", "bob")}
    with Bitlane(tmp_path / "data", lanes="cpu=cpu", key=keys["alice"]) as service:
        for seed in range(3):
            service.submit(seed=seed)
        cursor = service.http.get("/jobs", params={"limit": 1}).json()["cursor"]
        created_at, job_id = json.loads(b64decode(cursor + "=="))
        assert created_at and job_id
        with calling(service, keys["bob"]) as bob:
            for forged in (cursor, cursor_of([2**53, "z"]), cursor_of([1e308, ""])):
                assert bob.get("/jobs", params={"cursor": forged}).json() == {"jobs": [], "cursor": None}


HEADERS = {
    "idempotency-key": [b"", b"\x80", b"a\tb", b"a" * 256, b"a" * 20_000],
    "prefer": [
        b"wait=" + b"9" * 20_000,
        b"wait=-1",
        b"wait=NaN",
        b"wait=\x80",
        b'"' * 5000,
        b"wait=1e5",
        b";,=" * 3000,
    ],
    "if-none-match": [b'"' * 20_000, b"W/" * 9000, b"," * 20_000, b"\x80"],
    "host": [
        b"",
        b"evil.example",
        b"[::1",
        b"127.0.0.1@evil.example",
        b"127.0.0.1, evil",
        b"//127.0.0.1",
        b"\x80",
        b"a b",
    ],
    "authorization": [b"Bearer", b"Bearer " + b"a" * 20_000, b"Basic \x80\x80", b"Bearer \xff", b"bearer  x y"],
    "x-api-key": [b"\x80", b"x" * 20_000, b"bl_aaaaaaaa_" + b"A" * 43],
    "x-forwarded-for": [b"127.0.0.1", b"\x80", b"a" * 10_000, b"127.0.0.1, 127.0.0.1"],
    "forwarded": [b"for=127.0.0.1", b'for="[::1]"', b"\x80"],
    "cookie": [b"bitlane_session=" + b"a" * 20_000, b"\x80=\x80", b'bitlane_session="', b"=;=;", b"a=b;" * 5000],
    "origin": [b"null", b"http://[", b"\x80", b"http://127.0.0.1.evil.example", b"//", b"http://evil.example"],
    "accept": [b"\x80", b"a" * 10_000, b"image/png"],
    "last-event-id": [b"-1", b"\x80", b"9" * 5000],
    "range": [b"bytes=-", b"bytes=9-1", b"\x80"],
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers(target, name):
    job = target.submit()
    for value in HEADERS[name]:
        for method, path in (("POST", "/jobs?dry_run=1"), ("GET", f"/jobs/{job['id']}"), ("GET", "/livez")):
            body = {"json": spec()} if method == "POST" else {}
            answer = target.http.request(method, path, headers={name: value}, **body)
            assert answer.status_code in (200, 401, 403, 421, 422), (value[:30], answer.text)
            if answer.status_code != 200:
                refused(answer, answer.status_code)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[tuple[Bitlane, str]]:
    data = tmp_path_factory.mktemp("hostile-keys") / "data"
    key = new_key(data, "alice")
    with Bitlane(data, lanes="none", key=key) as service:
        yield service, key
        assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers_where_keys_are_asked_for(guarded, name):
    service, key = guarded
    with calling(service) as browser:
        browser.post("/session", json={"key": key}).raise_for_status()
        cookie = f"bitlane_session={browser.cookies['bitlane_session']}".encode()
    for value in HEADERS[name]:
        for shown in ({}, {"authorization": f"Bearer {key}"}, {"cookie": cookie}):
            with httpx.Client(base_url=service.url, trust_env=False, timeout=70) as client:
                for method, path in (("GET", "/jobs"), ("POST", "/jobs?dry_run=1")):
                    body = {"json": spec()} if method == "POST" else {}
                    answer = client.request(method, path, headers={**shown, name: value}, **body)
                    assert answer.status_code in (200, 401, 403, 421, 422), (value[:30], answer.text)
                    if not shown and name not in ("authorization", "x-api-key"):
                        assert answer.status_code == 401
