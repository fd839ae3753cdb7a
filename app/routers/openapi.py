"""The OpenAPI document: what the routes declare, what any request may meet on its way to them, and who may call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from app.routers.answers import ErrorTextOut
from app.routers.gate import PUBLIC, Policy, is_legacy
from app.routers.models import ProblemOut
from app.routers.responses import ERROR, PLAIN, PROBLEM, RETRY_AFTER, header
from app.routers.sessions import COOKIE

_SCHEMES: dict[str, dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key that `bitlane keys add` made."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, in another header."},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Begun by `POST /session`."},
}
_BEARER = header("How to show a key.")


def _response(description: str, content: Mapping[str, Any], **headers: Any) -> dict[str, Any]:
    told = {"description": description, "content": dict(content)}
    return {**told, "headers": {name.replace("_", "-"): value for name, value in headers.items()}} if headers else told


# By status: the name of the component, and the response. Any request may be answered so, by the gate before the routes,
# the limits on bodies, or the connection, which speaks plain text because it has not understood what is wanted.
_ANYWHERE: dict[int, tuple[str, dict[str, Any]]] = {
    400: ("NotHttp", _response("The request is not HTTP as it should be.", {**PROBLEM, **PLAIN})),
    401: ("Unauthenticated", _response("No key, or one that is not taken.", PROBLEM, WWW_Authenticate=_BEARER)),
    403: ("Forbidden", _response("The key lacks the scope, or the page is of another origin.", PROBLEM)),
    408: ("TooSlow", _response("The head or the body did not come in time.", {**PROBLEM, **PLAIN})),
    413: ("TooLarge", _response("The body is over the limit.", PROBLEM)),
    415: ("NotJson", _response("The body is not JSON by its `Content-Type`, or is compressed.", PROBLEM)),
    421: ("WrongHost", _response("This service does not answer for the host in `Host`.", PROBLEM)),
    431: ("HeadTooLarge", _response("The head is over the limit.", PLAIN)),
    503: (
        "Unavailable",
        _response("Stopping, overrun, or without its store.", {**PROBLEM, **PLAIN}, Retry_After=RETRY_AFTER),
    ),
}
_WITH_INPUT: dict[int, tuple[str, dict[str, Any]]] = {
    422: ("Invalid", _response("A field is missing, unknown or wrong; `errors` names each.", PROBLEM)),
}


def documented(app: FastAPI, policy: Policy) -> Callable[[], dict[str, Any]]:
    """What gives the document: keys that are needed only once there are some make it one of two."""
    plain = app.openapi
    made: dict[bool, dict[str, Any]] = {}

    def openapi() -> dict[str, Any]:
        required = policy.keys_required
        if required not in made:
            app.openapi_schema = None
            made[required] = _complete(plain(), keys_required=required)
        return made[required]

    return openapi


def _complete(document: dict[str, Any], *, keys_required: bool) -> dict[str, Any]:
    components = document["components"]
    for model in (ProblemOut, ErrorTextOut):
        schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
        components["schemas"] |= schema.pop("$defs", {})
        components["schemas"][model.__name__] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = _SCHEMES
    shared = {**_ANYWHERE, **_WITH_INPUT}
    components["responses"] = dict(shared.values())
    for path, operation in _operations(document):
        _complete_operation(operation)
        operation["security"] = _security(path, keys_required)
    return document


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation


def _complete_operation(operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    # The framework's own description of a 422, which no route here gives.
    if "HTTPValidationError" in str(answers.get("422")):
        del answers["422"]
    shared = dict(_ANYWHERE)
    # The old routes read their bodies by themselves, and say 400 to whatever is wrong with one.
    old = "legacy" in operation.get("tags", ())
    if not old and (operation.get("parameters") or "requestBody" in operation):
        shared |= _WITH_INPUT
    for status, (name, response) in shared.items():
        if old:
            _add(answers, str(status), {**response, "content": {**response["content"], **ERROR}})
        elif str(status) in answers:
            _add(answers, str(status), response)
        else:
            answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
    operation["responses"] = dict(sorted(answers.items()))


def _add(answers: dict[str, Any], status: str, response: Mapping[str, Any]) -> None:
    """What the route says of this status goes before what is said of every route."""
    own = answers.get(status, {})
    merged = {**response, **own}
    for part in ("content", "headers"):
        if part in response or part in own:
            merged[part] = {**response.get(part, {}), **own.get(part, {})}
    answers[status] = merged


def _security(path: str, keys_required: bool) -> list[dict[str, list[str]]]:
    """Which of the schemes are taken; the empty one says that the call may go without."""
    free = not keys_required or path in PUBLIC or is_legacy(path)
    schemes: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]
    return [{}, *schemes] if free else schemes
