"""What is not HTTP, or not quite: 400 or an end of the connection, and no request that nobody sent."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.service import Bitlane, spec

HOST = b"host: 127.0.0.1\r\n"
CLOSE = HOST + b"connection: close\r\n"
POST = b"POST /jobs?dry_run=1 HTTP/1.1\r\n" + HOST + b"content-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n"


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Iterator[Bitlane]:
    with Bitlane(tmp_path_factory.mktemp("http") / "data", lanes="none") as service:
        yield service
        log = service.log.read_text()
        assert "Traceback" not in log and " ERROR " not in log


@pytest.fixture(autouse=True)
def unharmed(target) -> Iterator[None]:
    yield
    assert target.http.get("/readyz").json() == {"status": "ready"}


def statuses(service: Bitlane, data: bytes, *, half_close: bool = False) -> list[int]:
    """Of every answer to these bytes. A connection that the service ends while it is written to says nothing more."""
    answer = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(data=st.binary(max_size=400))
@example(data=b"")
@example(data=b"\r\n" * 50)
@example(data=bytes.fromhex("16030100c8010000c40303") + bytes(range(190)))
@example(data=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
@example(data=b"\x04\x01\x00P\x7f\x00\x00\x01\x00")
def test_random_bytes(target, data):
    assert set(statuses(target, data, half_close=True)) <= {400}
    assert set(statuses(target, data + b"\r\n\r\n", half_close=True)) <= {400}


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(at=st.integers(0, 200), byte=st.binary(min_size=1, max_size=3))
def test_one_wrong_place_in_a_right_request(target, at, byte):
    body = json.dumps(spec()).encode()
    whole = POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    found = statuses(target, whole[:at] + byte + whole[at + 1 :], half_close=True)
    assert all(200 <= status < 500 for status in found)


HEADS = {
    "a space before the colon": b"GET /livez HTTP/1.1\r\nhost : 127.0.0.1\r\n\r\n",
    "lines without returns": b"GET /livez HTTP/1.1\nhost: 127.0.0.1\n\n",
    "a folded line": b"GET /livez HTTP/1.1\r\n" + HOST + b"x: a\r\n b\r\n\r\n",
    "a nul": b"GET /livez HTTP/1.1\r\n" + HOST + b"x: a\0b\r\n\r\n",
    "bytes in the path": b"GET /jobs/\xff\xfe HTTP/1.1\r\n" + CLOSE + b"\r\n",
    "no path": b"GET jobs HTTP/1.1\r\n" + CLOSE + b"\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n",
    "an unknown method": b"FOO /livez HTTP/1.1\r\n" + CLOSE + b"\r\n",
    "two hosts": b"GET /jobs HTTP/1.1\r\nhost: evil.example\r\n" + CLOSE + b"\r\n",
    "two hosts, ours first": b"GET /jobs HTTP/1.1\r\n" + CLOSE + b"host: evil.example\r\n\r\n",
    "both lengths": POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "both lengths, chunked first": CHUNKED + b"content-length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": POST + b"content-length: 4\r\ncontent-length: 5\r\n\r\n{}xxx",
    "a negative length": POST + b"content-length: -1\r\n\r\n{}",
    "a length with a sign": POST + b"content-length: +2\r\n\r\n{}",
    "a length that is none": POST + b"content-length: two\r\n\r\n{}",
    "a length without end": POST + b"content-length: " + b"9" * 40 + b"\r\n\r\n{}",
    "chunked with a space": POST + b"transfer-encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "almost chunked": POST + b"transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked, then packed": POST + b"transfer-encoding: chunked, gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a chunk of no size": CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk of negative size": CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a chunk of endless size": CHUNKED + b"\r\nffffffffffffffffff\r\n{}",
    "a chunk longer than it says": CHUNKED + b"\r\n2\r\n{}{}{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_what_is_not_quite_http_gets_400(target, name):
    assert statuses(target, HEADS[name]) == [400]


def test_a_head_without_end_is_given_up(target):
    assert set(statuses(target, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")) <= {431}
    many = b"".join(b"x%d: y\r\n" % number for number in range(20_000))
    assert set(statuses(target, b"GET /livez HTTP/1.1\r\n" + CLOSE + many + b"\r\n")) <= {431}
    trailers = CHUNKED + b"\r\n2\r\n{}\r\n0\r\n" + many
    assert set(statuses(target, trailers, half_close=True)) <= {422, 431}


def test_a_body_that_ends_too_soon_is_no_submission(target):
    body = json.dumps(spec()).encode()
    for head in (b"content-length: %d\r\n\r\n" % (len(body) + 1), b"content-length: 4000000\r\n\r\n"):
        assert statuses(target, POST.replace(b"?dry_run=1", b"") + head + body, half_close=True) in ([], [422])
    assert target.http.get("/jobs").json()["jobs"] == []


def test_what_follows_a_chunked_body_is_no_header(target):
    """A proxy that checks the head would not see it."""
    ended = CHUNKED + b"connection: close\r\n\r\n2\r\n{}\r\n0\r\n"
    for trailer in (
        b"host: evil.example",
        b"x-forwarded-for: 203.0.113.9",
        b"idempotency-key: ",
        b"origin: http://evil",
    ):
        assert statuses(target, ended + trailer + b"\r\n\r\n") == [422]


def test_a_request_in_a_body_is_no_request(target):
    inner = b"GET /livez HTTP/1.1\r\n" + CLOSE + b"\r\n"
    whole = POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(inner) + inner
    assert statuses(target, whole) == [422]
    assert statuses(target, POST + b"content-length: 2\r\n\r\n{}" + inner) == [422, 200]


def test_nothing_here_speaks_another_protocol(target):
    upgrade = (
        b"connection: upgrade, close\r\nupgrade: %s\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n\r\n"
    )
    for protocol in (b"websocket", b"h2c"):
        for path, status in ((b"/livez", 200), (b"/nowhere", 404)):
            head = b"GET " + path + b" HTTP/1.1\r\n" + HOST + upgrade % protocol
            assert statuses(target, head, half_close=True) == [status]
