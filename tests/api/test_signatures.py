"""Signatures of pushes: forged, cut, stale, from the future, sent again. Only a right one is a result, and once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from app.domain.signing import sign
from tests.service import Bitlane


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Bitlane]:
    env = {"BITLANE_PUSH_SECRET": "hush", "BITLANE_ADMIN_KEY": "admin-key-0123456789"}
    data = tmp_path_factory.mktemp("signatures") / "data"
    with Bitlane(data, lanes="none", env=env, key="admin-key-0123456789") as service:
        yield service
        assert "Traceback" not in service.log.read_text()


def why(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text[:300]
    assert set(answer.json()) == {"error"}
    return str(answer.json()["error"])


BODY = b'{"experiment_id": "signed", "status": "completed"}'


def push(service: Bitlane, body: bytes = BODY, **changes: str | None) -> httpx.Response:
    at = int(time.time())
    headers = {"id": "msg_1", "timestamp": str(at), "signature": sign("hush", "msg_1", at, BODY), **changes}
    sent = {f"webhook-{name}": value.encode() for name, value in headers.items() if value is not None}
    url = f"{service.url}/experiment_result"
    return httpx.post(
        url, content=body, headers={"content-type": "application/json", **sent}, timeout=70, trust_env=False
    )


def test_forged_and_stale_signatures(service):
    now = int(time.time())
    right = sign("hush", "msg_1", now, BODY)
    forged = {
        "another secret": {"signature": sign("guess", "msg_1", now, BODY)},
        "another id": {"id": "msg_2"},
        "another time": {"timestamp": str(now - 100), "signature": right},
        "of the admin key": {"signature": sign("admin-key-0123456789", "msg_1", now, BODY)},
        "another version": {"signature": right.replace("v1,", "v1a,"), "timestamp": str(now)},
        "without its version": {"signature": right[3:], "timestamp": str(now)},
        "cut": {"signature": right[:-1], "timestamp": str(now)},
        "longer": {"signature": f"{right}=", "timestamp": str(now)},
        "separated by commas": {"signature": f"v1,x,{right}", "timestamp": str(now)},
        "no bytes of text": {"signature": "v1,\u00e9"},
        "no id": {"id": None},
        "no time": {"timestamp": None},
        "no signature": {"signature": None},
        "empty": {"signature": "", "id": "", "timestamp": ""},
        "large": {"signature": "v1," + "A" * 20_000},
        "many": {"signature": " ".join(["v1,AAAA"] * 2000)},
        "a large id": {"id": "m" * 5000, "signature": sign("hush", "x", now, BODY)},
    }
    forged |= {
        f"at {at}": {"timestamp": at, "signature": right}
        for at in ("0", "-1", "1e9", "NaN", "9" * 12, "9" * 5000, "\u00b2", f"{now}.0", f"+{now}", hex(now))
    }
    for age in (-400, 400, -(10**6), 10**6):
        forged[f"{age} s off"] = {"timestamp": str(now + age), "signature": sign("hush", "msg_1", now + age, BODY)}
    for name, changes in forged.items():
        answer = push(service, **changes)
        assert "webhook" in why(answer, 401) or "not signed" in answer.text, name
    for body in (b"", BODY + b" ", BODY.replace(b"completed", b"failed"), b"[" * 100_000):
        assert "does not match" in why(push(service, body), 401)
    assert service.http.get("/experiment/signed/status").status_code == 404


def test_a_push_that_is_sent_again_is_one_result(service):
    at = int(time.time())
    body = b'{"experiment_id": "replayed", "status": "completed"}'
    right = sign("hush", "msg_r", at, body)
    several = f"v1,AAAA v2,BBBB {right} v1,{'C' * 44}"
    answers = [
        push(service, body, id="msg_r", timestamp=str(at), signature=signature) for signature in (right, right, several)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.json()["repeated"] for answer in answers] == [False, True, True]
    assert service.http.get("/experiments").json()["completed_experiments"].count("replayed") == 1
    large = "m" * 201
    answer = push(service, body, id=large, timestamp=str(at), signature=sign("hush", large, at, body))
    assert "longer than 200" in why(answer, 400)
