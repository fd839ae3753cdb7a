"""What every request passes: how large its body is and how fast it comes, and what every answer tells a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.routers.errors import BodyEncoded, BodyTooLarge, BodyTooSlow, encoded, too_large, too_slow

# A body of the largest size comes in time over 100 kB/s.
BODY_S = 60.0


class BodyLimit:
    """Answers 413 to a body over ``max_bytes``, whatever its header says, 408 to one that is not there in time, and 415
    to a compressed one."""

    def __init__(self, app: ASGIApp, max_bytes: int, within_s: float = BODY_S) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(dict(scope["headers"]))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        seen = 0
        started = whole = False
        deadline = asyncio.get_running_loop().time() + self._within_s

        async def bounded_receive() -> Message:
            nonlocal seen, whole
            try:
                # Once the body is there, what is waited for is that the client goes away.
                async with asyncio.timeout_at(None if whole else deadline):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow(self._within_s) from None
            if message["type"] == "http.request":
                whole = not message.get("more_body", False)
                seen += len(message.get("body", b""))
                if seen > self._max_bytes:
                    raise BodyTooLarge(self._max_bytes)
            return message

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, bounded_receive, noting_send)
        except BodyTooLarge as error:
            if not started:
                await too_large(error)(scope, receive, send)
        except BodyTooSlow as error:
            if not started:
                await too_slow(error)(scope, receive, send)

    def _refusal(self, headers: Mapping[bytes, bytes]) -> Response | None:
        """What the head alone gives away."""
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if coding.strip().lower() != "identity":
            return encoded(BodyEncoded(coding))
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            return too_large(BodyTooLarge(self._max_bytes))
        return None


class SecurityHeaders:
    """What every answer tells a browser: no guessing of types, no frames, no scripts from elsewhere, nothing kept.

    There are no CORS headers: pages of other origins get nothing.
    """

    _ALWAYS = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (
            b"content-security-policy",
            b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
            b" connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    )
    _SECURE = (b"strict-transport-security", b"max-age=31536000")

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = [pair for pair in self._ALWAYS if pair[0] not in given]
                if b"cache-control" not in given and not scope["path"].startswith("/static/"):
                    more.append((b"cache-control", b"no-store"))
                if scope["scheme"] == "https":
                    more.append(self._SECURE)
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self._app(scope, receive, with_headers)
