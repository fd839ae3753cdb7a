"""Who gets in, what they may do, and what they see of each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from app.main import create_app
from app.settings import Settings
from tests.service import BITLANE, SLEEPER, Bitlane, free_port, spec, wait_for

AS_JSON = {"accept": "application/json"}
PUSH_SECRET, ADMIN_KEY = "push-secret-6f1c", "admin-key-0123456789"
OTHER = "another-admin-key-0123"


def bitlane(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # A table that is as narrow as a terminal cuts the words that are looked for.
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run([BITLANE, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=environment)


def new_key(data: Path, client: str, *options: str) -> str:
    made = bitlane("keys", "add", client, "--data", data, *options)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@contextmanager
def calling(service: Bitlane, key: str | None = None, **headers: str) -> Iterator[httpx.Client]:
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    with httpx.Client(base_url=service.url, headers=headers, trust_env=False, timeout=70.0) as client:
        yield client


class Guarded:
    """A service that asks for keys, and a client for each kind of key."""

    def __init__(self, service: Bitlane) -> None:
        self.service = service
        data = service.data
        self.keys = {
            "alice": new_key(data, "alice"),
            "bob": new_key(data, "bob", "--scopes", "submit,read"),
            "reader": new_key(data, "reader", "--scope", "read"),
            "auditor": new_key(data, "auditor", "--scope", "read:all"),
            "admin": new_key(data, "boss", "--scope", "admin"),
            "submitter": new_key(data, "robot", "--scope", "submit"),
        }

    def call(self, name: str, method: str, path: str, **more: Any) -> httpx.Response:
        with calling(self.service, self.keys[name]) as client:
            return client.request(method, path, **more)

    def ended(self, name: str, job_id: str) -> dict[str, Any]:
        job = dict(self.call(name, "GET", f"/jobs/{job_id}?wait=60").json())
        assert job["finished_at"] is not None
        return job


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[Guarded]:
    data = tmp_path_factory.mktemp("guarded") / "data"
    env = {"BITLANE_PUSH_SECRET": PUSH_SECRET, "BITLANE_ADMIN_KEY": ADMIN_KEY}
    with Bitlane(data, lanes="cpu=cpu,gpu=cpu", env=env, key=ADMIN_KEY) as service:
        yield Guarded(service)


def test_without_a_key_there_are_probes_alone(guarded):
    with calling(guarded.service) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/health").status_code == 200
        for path in ("/readyz?verbose", "/jobs", "/jobs/x", "/lanes", "/suites", "/limits", "/openapi.json", "/docs"):
            answer = client.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["error_type"] == "unauthenticated" and answer.json()["retryable"] is False
        assert client.post("/jobs", content=b"not even json").status_code == 401
        assert client.put("/jobs/x", json=spec()).status_code == 401


@pytest.mark.parametrize(
    "key", ["x", "bl_aaaaaaaa_" + "A" * 43, "bl__", "\u00e9" * 8, "bl_" + "a" * 5000, "' OR 1=1 --"]
)
def test_what_is_no_key_is_refused(guarded, key):
    with httpx.Client(base_url=guarded.service.url, trust_env=False) as client:
        for headers in ({"authorization": f"Bearer {key}".encode()}, {"x-api-key": key.encode()}):
            assert client.get("/jobs", headers=headers).status_code == 401


def test_a_key_with_another_secret_is_refused(guarded):
    key = guarded.keys["alice"]
    with calling(guarded.service, key[:-1] + ("A" if key[-1] != "A" else "B")) as client:
        assert client.get("/jobs").status_code == 401
    with calling(guarded.service, **{"x-api-key": key}) as client:
        assert client.get("/jobs").status_code == 200


@pytest.mark.parametrize(
    ("name", "method", "path", "status"),
    [
        ("reader", "POST", "/jobs", 403),
        ("reader", "PUT", "/jobs/p", 403),
        ("reader", "POST", "/jobs/batch", 403),
        ("reader", "POST", "/lanes/cpu/pause", 403),
        ("reader", "GET", "/jobs", 200),
        ("reader", "GET", "/lanes", 200),
        ("submitter", "GET", "/jobs", 403),
        ("submitter", "GET", "/readyz?verbose", 403),
        ("alice", "POST", "/lanes/cpu/drain", 403),
        ("alice", "GET", "/readyz?verbose", 200),
        ("auditor", "POST", "/jobs", 403),
        ("auditor", "GET", "/limits", 200),
        ("admin", "GET", "/suites", 200),
        ("alice", "GET", "/docs", 200),
    ],
)
def test_scopes(guarded, name, method, path, status):
    body = {"json": spec()} if method != "GET" else {}
    answer = guarded.call(name, method, path, **body)
    assert answer.status_code == status, answer.text
    if status == 403:
        assert answer.json()["error_type"] == "forbidden" and "scope" in answer.json()["detail"]


def test_clients_see_their_own_jobs_alone(guarded):
    mine = guarded.call("alice", "POST", "/jobs", json=spec(experiment_id="e")).json()
    theirs = guarded.call("bob", "POST", "/jobs", json=spec(experiment_id="e", seed=1)).json()
    assert mine["owner"] == "alice" and theirs["owner"] == "bob" and mine["id"] != theirs["id"]
    unknown = guarded.call("bob", "GET", "/jobs/01NOSUCHJOB")
    for path in ("", "/report", "/events"):
        hidden = guarded.call("bob", "GET", f"/jobs/{mine['id']}{path}")
        assert hidden.status_code == 404
    assert hidden.json()["detail"].replace(mine["id"], "01NOSUCHJOB") == unknown.json()["detail"]
    for action in ("cancel", "redeliver"):
        assert guarded.call("bob", "POST", f"/jobs/{mine['id']}/{action}").status_code == 404
        assert guarded.call("auditor", "POST", f"/jobs/{mine['id']}/{action}").status_code == 403
    taken = guarded.call("bob", "PUT", f"/jobs/{mine['id']}", json=spec(experiment_id="e"))
    assert taken.status_code == 409 and "alice" not in taken.text
    listed = guarded.call("bob", "GET", "/jobs?limit=500").json()["jobs"]
    assert {job["owner"] for job in listed} == {"bob"}
    assert {"alice", "bob"} <= {
        job["owner"] for job in guarded.call("auditor", "GET", "/jobs?limit=500").json()["jobs"]
    }
    assert guarded.call("auditor", "GET", f"/jobs/{mine['id']}").status_code == 200
    assert guarded.call("alice", "GET", "/experiment/e/status").json().get("job_id", mine["id"]) == mine["id"]


def test_history_names_who_did_it(guarded):
    job = guarded.call("alice", "POST", "/jobs", json=spec(encoder=SLEEPER)).json()
    assert guarded.call("admin", "POST", f"/jobs/{job['id']}/cancel").status_code == 202
    guarded.ended("alice", job["id"])
    events = guarded.call("alice", "GET", f"/jobs/{job['id']}/events", headers=AS_JSON).json()["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    actors = {event["event"]: event["actor"] for event in events}
    assert actors["Submitted"] == "alice" and actors["CancelRequested"] == "boss"
    shown = bitlane("show", job["id"], "--events", "--url", guarded.service.url, "--key", guarded.keys["alice"])
    assert shown.returncode == 0 and "CancelRequested" in shown.stdout and "boss" in shown.stdout
    refused = bitlane("show", job["id"], "--url", guarded.service.url, "--key", guarded.keys["bob"])
    assert refused.returncode == 1 and "there is no job" in refused.stderr


def test_a_priority_above_others_is_for_admins(guarded):
    assert guarded.call("alice", "POST", "/jobs", json=spec(priority=1)).status_code == 403
    assert guarded.call("alice", "POST", "/jobs?dry_run=1", json=spec(priority=-3)).status_code == 200
    assert guarded.call("admin", "POST", "/jobs?dry_run=1", json=spec(priority=1)).status_code == 200


def test_a_revoked_key_is_refused_at_once_and_an_expired_one_too(guarded):
    data = guarded.service.data
    key = new_key(data, "carol")
    short = new_key(data, "dave", "--expires", "1s")
    with calling(guarded.service, key) as client:
        assert client.get("/jobs").status_code == 200
        assert bitlane("keys", "revoke", key, "--data", data).returncode == 0
        assert client.get("/jobs").status_code == 401
        assert "revoked" in client.get("/jobs").json()["detail"]
    with calling(guarded.service, short) as client:
        wait_for(lambda: client.get("/jobs").status_code == 401, within_s=20, what="a key of one second to expire")
        assert "expired" in client.get("/jobs").json()["detail"]
    listed = json.loads(bitlane("keys", "list", "--data", data, "--json").stdout)
    assert {entry["client"]: entry["state"] for entry in listed}["carol"] == "revoked"
    kept = (data / "keys.json").read_text()
    assert key not in kept and key.rpartition("_")[2] not in kept
    assert (data / "keys.json").stat().st_mode & 0o077 == 0
    assert bitlane("keys", "revoke", "nosuchid", "--data", data).returncode == 1


def test_quotas_of_a_key(guarded):
    keys = {
        "few": new_key(guarded.service.data, "few", "--max-queued", "2"),
        "slow": new_key(guarded.service.data, "slow", "--per-minute", "2"),
    }
    assert guarded.call("admin", "POST", "/lanes/cpu/pause").status_code == 200
    try:
        for client_name, error in (("few", "bound for one client"), ("slow", "a minute")):
            with calling(guarded.service, keys[client_name]) as client:
                answers = [client.post("/jobs", json=spec(device="cpu", seed=n)) for n in range(3)]
                assert [answer.status_code for answer in answers] == [202, 202, 429]
                assert error in answers[2].json()["detail"]
                assert 1 <= int(answers[2].headers["retry-after"]) <= 3600
                assert answers[2].json()["retryable"] is True
                for answer in answers[:2]:
                    client.post(f"/jobs/{answer.json()['id']}/cancel")
        with calling(guarded.service, keys["slow"]) as client:
            assert client.post("/jobs", json=spec()).status_code == 429, "cancelling gives no minute back"
    finally:
        guarded.call("admin", "POST", "/lanes/cpu/resume")


def test_legacy_callers_of_the_named_networks_need_no_key(guarded):
    body = {"experiment_id": "old", "encoding_code": spec()["encoder"], "decoding_code": spec()["decoder"]}
    with calling(guarded.service) as client:
        accepted = client.post("/experiment", json=body)
        assert accepted.status_code == 202
        assert client.get("/status").status_code == 200
        assert client.get("/experiment/old/status").status_code == 200
        assert "old" in str(client.get("/experiments").json())
        assert client.get(f"/jobs/{accepted.json()['job_id']}").status_code == 401
        assert client.post("/experiment", json=body, headers={"origin": "http://evil.example"}).status_code == 403
        assert client.post("/experiment", json=body, headers={"host": "evil.example"}).status_code == 421
        through = client.post("/experiment", json=body, headers={"x-forwarded-for": "10.1.2.3"})
        assert through.status_code == 401 and "proxy" in through.json()["error"]
        assert client.post("/experiment", json=body, headers={"authorization": "Bearer x"}).json() == {
            "error": "this key is not known here"
        }


def test_a_browser_signs_in_with_a_key(guarded):
    with calling(guarded.service) as client:
        assert client.get("/docs", headers={"accept": "text/html"}).headers["location"] == "/signin?next=/docs"
        page = client.get("/signin")
        assert page.status_code == 200 and "script-src 'self'" in page.headers["content-security-policy"]
        assert client.get("/static/signin.js").status_code == 200
        assert client.post("/session", json={"key": "bl_nonsense"}).status_code == 401
        begun = client.post("/session", json={"key": guarded.keys["alice"]})
        assert begun.json() == {"client": "alice", "scopes": ["read", "submit"]}
        cookie = begun.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
        assert guarded.keys["alice"] not in begun.headers["set-cookie"]
        assert client.get("/jobs").status_code == 200
        assert client.get("/session").json()["client"] == "alice"
        elsewhere = client.post("/jobs", json=spec(), headers={"origin": "http://evil.example"})
        assert elsewhere.status_code == 403
        here = client.post("/jobs?dry_run=1", json=spec(), headers={"origin": guarded.service.url})
        assert here.status_code == 200
        client.delete("/session")
        assert client.get("/jobs").status_code == 401
    with calling(guarded.service, cookie="bitlane_session=forged.value.here") as client:
        assert client.get("/jobs").status_code == 401


def test_a_session_ends_with_its_key(guarded):
    key = new_key(guarded.service.data, "erin")
    with calling(guarded.service) as client:
        client.post("/session", json={"key": key})
        assert client.get("/jobs").status_code == 200
        bitlane("keys", "revoke", key, "--data", guarded.service.data)
        assert client.get("/jobs").status_code == 401


def test_a_session_of_the_admin_key_ends_when_that_key_is_another(tmp_path):
    data = tmp_path / "data"
    before, after = (Bitlane(data, lanes="none", env={"BITLANE_ADMIN_KEY": key}, key=key) for key in (ADMIN_KEY, OTHER))
    with before, calling(before) as client:
        client.post("/session", json={"key": ADMIN_KEY}).raise_for_status()
        cookie = client.cookies["bitlane_session"]
        assert client.get("/session").json()["client"] == "admin"
    with after, calling(after, cookie=f"bitlane_session={cookie}") as client:
        assert client.get("/jobs").status_code == 401


def test_a_broken_key_file_lets_nobody_in(guarded):
    path = guarded.service.data / "keys.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(b"{]")
        assert guarded.call("alice", "GET", "/jobs").status_code == 503
    finally:
        path.write_bytes(whole)
    assert guarded.call("alice", "GET", "/jobs").status_code == 200


def test_secrets_stay_out_of_logs_reports_and_the_jail(guarded):
    snoop = (
        "import os\n\ndef encode(frames, ctx):\n"
        "    raise RuntimeError(repr(dict(os.environ)) + open('/proc/self/environ').read())\n"
    )
    job = guarded.call("alice", "POST", "/jobs", json=spec(encoder=snoop)).json()
    guarded.ended("alice", job["id"])
    told = guarded.call("alice", "GET", f"/jobs/{job['id']}").text
    told += guarded.call("admin", "GET", "/readyz?verbose").text + guarded.service.log.read_text()
    told += "".join(
        guarded.call("alice", "GET", path, headers={"cookie": ADMIN_KEY}).text for path in ("/jobs/none", "/nowhere")
    )
    for secret in (PUSH_SECRET, ADMIN_KEY, *guarded.keys.values()):
        assert secret not in told


def test_security_headers(guarded):
    with calling(guarded.service) as client:
        for answer in (client.get("/livez"), client.get("/jobs"), client.get("/nowhere"), client.get("/signin")):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "unsafe-eval" not in answer.headers["content-security-policy"]
            assert not [name for name in answer.headers if name.startswith("access-control-")]
        preflight = client.options("/jobs", headers={"origin": "http://x", "access-control-request-method": "POST"})
        assert "access-control-allow-origin" not in preflight.headers


def test_another_address_than_loopback_needs_a_key(tmp_path):
    port = free_port()
    refused = bitlane("serve", "--host", "0.0.0.0", "--port", str(port), "--data", tmp_path / "d", "--lanes", "none")
    assert refused.returncode != 0 and "bitlane keys add" in refused.stderr


def test_on_another_address_keys_are_asked_for_and_proxies_named_are_believed(tmp_path):
    key = new_key(tmp_path / "data", "alice")
    env = {"BITLANE_TRUSTED_PROXIES": "127.0.0.1", "BITLANE_LEGACY_NETWORKS": "127.0.0.0/8"}
    with Bitlane(tmp_path / "data", lanes="none", options=("--host", "0.0.0.0"), env=env, key=key) as service:
        with calling(service) as client:
            assert client.get("/jobs").status_code == 401
            assert client.get("/livez").status_code == 200
            assert client.get("/status").status_code == 200
            assert client.get("/status", headers={"x-forwarded-for": "203.0.113.7"}).status_code == 401
            proxied = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.7"}
            begun = client.post("/session", json={"key": key}, headers=proxied)
            assert "secure" in begun.headers["set-cookie"].lower()
            assert "max-age" in begun.headers["strict-transport-security"]
        with calling(service, key, host="bitlane.example") as client:
            assert client.get("/jobs").status_code == 200


def test_a_proxy_that_is_not_named_is_not_believed(tmp_path):
    with Bitlane(tmp_path / "data", lanes="none") as service, calling(service) as client:
        assert client.get("/jobs").status_code == 200
        answer = client.get("/jobs", headers={"x-forwarded-for": "127.0.0.1"})
        assert answer.status_code == 401 and "BITLANE_TRUSTED_PROXIES" in answer.json()["detail"]


def routes_of(router: Any) -> Iterator[APIRoute]:
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        elif (included := getattr(route, "original_router", None)) is not None:
            yield from routes_of(included)


def test_every_route_says_who_may_call(tmp_path):
    """A route without a guard is one that was forgotten."""
    unguarded, guarded = set(), set()
    for route in routes_of(create_app(Settings(data=tmp_path))):
        asks = {getattr(part.call, "__name__", "") for part in route.dependant.dependencies}
        (guarded if asks & {"checked", "_caller"} else unguarded).add(route.path)
    assert {"/jobs", "/lanes/{name}/pause", "/experiments"} <= guarded
    pages = {"/", "/docs", "/signin"}
    assert unguarded == {"/livez", "/health", "/session", "/experiment_result"} | pages


def test_a_slow_or_talkative_caller_is_given_up(tmp_path):
    with Bitlane(tmp_path / "data", lanes="none") as service:
        with socket.create_connection(("127.0.0.1", service.port)) as slow:
            started = time.monotonic()
            slow.settimeout(40)
            slow.sendall(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: ")
            answer = slow.recv(1000)
            assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - started < 35
        with socket.create_connection(("127.0.0.1", service.port)) as large:
            large.sendall(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x-a: " + b"y" * 60_000)
            large.settimeout(20)
            assert large.recv(1000).startswith(b"HTTP/1.1 431")
        assert service.http.get("/livez").status_code == 200
