"""A proxy before a real DynamoDB server that can do to a request what networks and overloaded services do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from tests.connections import Connections

Fault = Literal["lose reply", "half reply", "refuse", "hang", "garbage", "500", "throttle", "slow"]
# Asked for each request with DynamoDB's name of the operation (``PutItem``); None lets it through.
Plan = Callable[[str], Fault | None]

SLOW_S = 10.0
THROTTLED = (
    b'{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slow down"}'
)


def let_through(operation: str) -> Fault | None:
    return None


def always(fault: Fault) -> Plan:
    return lambda operation: fault


def once(operation: str, fault: Fault, *, after: int = 0) -> Plan:
    """The fault on one request of that operation, after so many that pass."""
    left = [None] * after + [fault]
    return lambda asked: left.pop(0) if asked == operation and left else None


class FaultyProxy(Connections):
    """``async with`` it; ``plan`` may be changed at any time."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = urlsplit(upstream)
        self.plan: Plan = let_through

    async def __aenter__(self) -> FaultyProxy:
        self._server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._server.close()
        await self.hang_up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
        headers = {name.lower(): value for name, _, value in lines}
        body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
        operation = headers[b"x-amz-target"].decode().partition(".")[2]
        fault = self.plan(operation)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "slow":
            await asyncio.sleep(SLOW_S)
        answer = await self._answer(head, body, fault)
        writer.write(answer)
        await writer.drain()

    async def _answer(self, head: bytes, body: bytes, fault: Fault | None) -> bytes:
        if fault == "refuse":
            return b""
        if fault == "500":
            return _response(500, b"<html>oops</html>")
        if fault == "throttle":
            return _response(400, THROTTLED)
        if fault == "garbage":
            return _response(200, b"<html>Welcome to the hotel's network</html>")
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            writer.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + body)
            answer = await reader.read()
        finally:
            writer.close()
        if fault == "lose reply":
            return b""
        return answer[: len(answer) - 20] if fault == "half reply" else answer


def _response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
