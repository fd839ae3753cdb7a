"""How routes declare what they may answer beside their success, for the OpenAPI document.

A route names the statuses that are its own; what any request may meet on its way (``openapi``) needs no declaring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorTextOut"}}}
PLAIN = {"text/plain": {"schema": {"type": "string"}}}

_MEANING = {
    400: "The body cannot be taken.",
    404: "There is nothing of this name, or it is not the caller's to see.",
    409: "It does not fit what is there: the id is taken, the job has ended, the first request is still in flight.",
    413: "The body is over the limit.",
    422: "A field is missing, unknown or wrong; `errors` names each.",
    429: "A bound on jobs is reached; ask again after `Retry-After` seconds.",
    503: "Nothing is taken at present.",
    507: "The disk is full; nothing was taken.",
}


def header(description: str, *, required: bool = False, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "required": required, "schema": {"type": kind}}


RETRY_AFTER = header("Seconds until it is worth asking again.", kind="integer")
LOCATION = header("The job's path.", required=True)
ETAG = header("What `If-None-Match` takes.", required=True)
APPLIED = header("How long the answer was waited for, as `Prefer` asked.")
# A bound always says when to come back; the others do where waiting helps.
_HEADERS = {
    409: {"Retry-After": RETRY_AFTER},
    429: {"Retry-After": {**RETRY_AFTER, "required": True}},
    503: {"Retry-After": RETRY_AFTER},
    507: {"Retry-After": RETRY_AFTER},
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The native routes' errors."""
    return {status: _response(status, PROBLEM) for status in statuses}


def old_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The old system's errors: ``{"error": ...}``; what is found out before the route speaks is a problem."""
    return {status: _response(status, {**ERROR, **PROBLEM}) for status in statuses}


def _response(status: int, content: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": _MEANING[status], "content": dict(content)}
    if status in _HEADERS:
        told["headers"] = _HEADERS[status]
    return told


def success(model: Any, description: str, **headers: Mapping[str, Any]) -> dict[str, Any]:
    """A success with its headers, their dashes written as underscores."""
    told: dict[str, Any] = {"model": model, "description": description}
    if headers:
        told["headers"] = {name.replace("_", "-"): dict(value) for name, value in headers.items()}
    return told


def not_modified() -> dict[str, Any]:
    headers = {"ETag": ETAG, "Retry-After": RETRY_AFTER}
    return {"description": "What `If-None-Match` names is still so.", "headers": headers}


def header_parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A request header that a route reads by itself."""
    told = {"name": name, "in": "header", "required": False, "description": description}
    return {**told, "schema": {"type": "string", **schema}}
