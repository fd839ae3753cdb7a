"""Every error as ``application/problem+json`` (RFC 9457). One table maps the domain's errors to HTTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.domain.errors import (
    AlreadyEnded,
    BitlaneError,
    Conflict,
    DiskFull,
    Draining,
    FieldError,
    Forbidden,
    InvalidSpec,
    JailTooWeak,
    KeyReused,
    NotFound,
    QueueFull,
    StaleVersion,
    StillInFlight,
    StoreUnavailable,
    Unauthenticated,
)

RETRY_AFTER_S = 5.0

# error: (status, error_type, retryable)
TABLE: dict[type[BitlaneError], tuple[int, str, bool]] = {
    InvalidSpec: (422, "invalid_spec", False),
    Unauthenticated: (401, "unauthenticated", False),
    Forbidden: (403, "forbidden", False),
    NotFound: (404, "not_found", False),
    Conflict: (409, "conflict", False),
    AlreadyEnded: (409, "already_ended", False),
    StillInFlight: (409, "in_flight", True),
    KeyReused: (422, "idempotency_key_reused", False),
    QueueFull: (429, "queue_full", True),
    Draining: (503, "draining", True),
    JailTooWeak: (503, "jail_too_weak", False),
    # 507 is the one status that says it; a client that knows only its class tries again later, as it should.
    DiskFull: (507, "disk_full", True),
    StoreUnavailable: (503, "dependency_unavailable", True),
    # Nothing was written: another service has taken the store over and this one is about to notice.
    StaleVersion: (503, "dependency_unavailable", True),
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_TYPES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
}


def problem(
    status: int,
    detail: str,
    *,
    error_type: str | None = None,
    retryable: bool = False,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error_type": error_type or _TYPES.get(status, "error"),
        "retryable": retryable,
        **more,
    }
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


class BodyTooLarge(Exception):
    """The body is over the limit, whatever its header said."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is over the limit of {max_bytes} bytes")


class BodyEncoded(Exception):
    """The body is compressed, which would let it grow past every limit once it is read."""

    def __init__(self, coding: str) -> None:
        super().__init__(f"the body must come as it is, not with content-encoding {coding[:40]!r}")


class BodyTooSlow(Exception):
    """The body was not there in time."""

    def __init__(self, within_s: float) -> None:
        super().__init__(f"the body was not there within {within_s:g} s")


def too_slow(error: BodyTooSlow) -> JSONResponse:
    return problem(408, str(error), headers={"connection": "close"})


def encoded(error: BodyEncoded) -> JSONResponse:
    return problem(415, str(error), headers={"accept-encoding": "identity", "connection": "close"})


def too_large(error: BodyTooLarge) -> JSONResponse:
    return problem(413, str(error), headers={"connection": "close"})


def row_of(error: BitlaneError) -> tuple[int, str, bool]:
    """The row of the error's own class, or of the nearest above it."""
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), (500, "internal_error", False))


def of_error(error: BitlaneError) -> JSONResponse:
    """The problem for one of our own errors."""
    status, error_type, retryable = row_of(error)
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    if isinstance(error, InvalidSpec):
        more["errors"] = [_without_none(asdict(field)) for field in error.errors]
    if isinstance(error, AlreadyEnded):
        more["state"] = error.state
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="bitlane"'
    if retryable:
        pause = error.retry_after_s if isinstance(error, QueueFull) else RETRY_AFTER_S
        headers["retry-after"] = str(math.ceil(pause))
    return problem(status, str(error), error_type=error_type, retryable=retryable, headers=headers, **more)


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def invalid_spec(errors: Sequence[Any]) -> InvalidSpec:
    """Our own error for one that the framework or pydantic raised: fields by their path, without the body's text."""
    found = []
    for item in errors:
        where = (
            item["loc"][1:] if item["loc"] and item["loc"][0] in ("body", "query", "path", "header") else item["loc"]
        )
        if item["type"] == "json_invalid":
            found.append(FieldError(field="body", message=f"not JSON: {item.get('ctx', {}).get('error', 'malformed')}"))
        else:
            message = str(item["msg"]).removeprefix("Value error, ")
            field = ".".join(str(part) for part in where) or "body"
            if item["type"] == "extra_forbidden":
                message = "unknown field"
            found.append(FieldError(field=field, message=message))
    return InvalidSpec(found)


async def _on_bitlane_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BitlaneError)
    return of_error(error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if request.method in ("POST", "PUT") and not _is_json(request):
        about_body = any(item["loc"][:1] == ("body",) for item in error.errors())
        if about_body and request.headers.get("content-length", "0") != "0":
            return problem(415, "the body must be JSON, with content-type application/json")
    return of_error(invalid_spec(error.errors()))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    # The framework answers 400 to whatever happens while it reads a body; what happened is the cause.
    if isinstance(error.__cause__, BodyTooLarge):
        return too_large(error.__cause__)
    if isinstance(error.__cause__, BodyTooSlow):
        return too_slow(error.__cause__)
    if isinstance(error.__cause__, ValueError | RecursionError):
        return of_error(InvalidSpec([FieldError(field="body", message=f"not JSON: {error.__cause__}")]))
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(_methods(request))
    return problem(error.status_code, str(error.detail), headers=headers)


def _methods(request: Request) -> list[str]:
    """What the path can be asked with. The framework names the methods of one route, and each method is another."""
    routes = request.app.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    return problem(500, "something of ours broke; the service's log says what", error_type="internal_error")


def install(app: FastAPI) -> None:
    app.add_exception_handler(BitlaneError, _on_bitlane_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
