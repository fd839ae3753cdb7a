"""What a request says of how it wants to be answered: ``If-None-Match``, ``Prefer``, ``Idempotency-Key``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from app.domain.errors import FieldError, InvalidSpec
from app.routers.responses import header_parameter
from app.routers.view import ValueResponse

MAX_KEY_LENGTH = 255
MAX_WAIT_S = 60.0

REPEATABLE = header_parameter(
    "Idempotency-Key",
    "The same key with the same body is the same job.",
    minLength=1,
    maxLength=MAX_KEY_LENGTH,
    pattern=r"^[!-~]([ -~]*[!-~])?$",
)
WAITING = header_parameter("Prefer", "`wait=N`: answer when the job has ended, or after N seconds, at most 60.")
KNOWN = header_parameter("If-None-Match", "ETags of answers that the caller has.")

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


def answered(request: Request, content: Any, headers: Mapping[str, str]) -> Response:
    """The content with its ETag; 304 without it if the caller has it already."""
    whole = ValueResponse(content, headers={"cache-control": "private, no-cache", **headers})
    tag = f'"{hashlib.sha256(whole.body).hexdigest()[:32]}"'
    known = [given.strip().removeprefix("W/") for given in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers={"etag": tag, "cache-control": "private, no-cache", **headers})
    whole.headers["etag"] = tag
    return whole


def preferred_wait_s(request: Request) -> float | None:
    """``wait`` of RFC 7240's ``Prefer``, at most ``MAX_WAIT_S``; None without one, or without sense."""
    match = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return None if match is None else min(float(match[1]), MAX_WAIT_S)


def repeat_key(request: Request) -> str | None:
    """The ``Idempotency-Key``. Raises ``InvalidSpec`` for one that is empty, too long or not printable ASCII."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    key = key.strip()
    if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        message = f"it must have 1 to {MAX_KEY_LENGTH} printable ASCII characters"
        raise InvalidSpec([FieldError(field="Idempotency-Key", message=message)])
    return key
