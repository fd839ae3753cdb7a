"""What every request passes first: whom it is addressed to, where it comes from, and how large it is."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.routers.errors import BodyTooLarge, problem, too_large


class BodyLimit:
    """Answers 413 to a body over ``max_bytes``, whatever its header says."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            await too_large(BodyTooLarge(self._max_bytes))(scope, receive, send)
            return
        seen = 0
        started = False

        async def bounded_receive() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
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


class AddressCheck:
    """On loopback a web page must not reach the service through the user's browser: ``Host`` must be ours (else 421),
    and so must ``Origin`` where there is one (else 403)."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1")
            origin = headers.get(b"origin", b"").decode("latin-1")
            if _name(f"//{host}") not in self._hosts:
                answer = problem(421, f"this service does not answer for host {host!r}", error_type="wrong_host")
                await answer(scope, receive, send)
                return
            if origin and _name(origin) not in self._hosts:
                answer = problem(403, f"pages from {origin!r} may not call this service", error_type="wrong_origin")
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
