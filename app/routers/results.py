"""Receives what other workers push."""

from __future__ import annotations

import hashlib
import json
from ipaddress import ip_address
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from app.domain.errors import StoreUnavailable
from app.domain.signing import verify
from app.ports import Received
from app.routers.answers import ReceivedOut
from app.routers.api import Api, TheApi
from app.routers.errors import row_of
from app.routers.models import ExperimentId
from app.routers.responses import header_parameter, old_errors, success
from app.routers.strict import parse

MAX_ID_LENGTH = 200
MAX_RESULT_BYTES = 512 * 1024

router = APIRouter(tags=["legacy"])
_experiment_id = TypeAdapter(ExperimentId)


class ResultIn(BaseModel):
    """The body of a push; further fields are kept as they come."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"experiment_id": "exp-2026-017", "status": "completed", "metrics": {"psnr_db": 34.4}}]
        },
    )

    experiment_id: ExperimentId
    status: Any = None
    metrics: Any = None


@router.post(
    "/experiment_result",
    responses={200: success(ReceivedOut, "It is durable."), **old_errors(400, 413, 503, 507)},
    openapi_extra={
        "parameters": [
            header_parameter(
                "webhook-id", "The same on every try; of no id the body is its own.", maxLength=MAX_ID_LENGTH
            ),
            header_parameter("webhook-timestamp", "Seconds since the epoch. Needed where a secret is set."),
            header_parameter("webhook-signature", "`v1,` and a base64 HMAC-SHA256. Needed where a secret is set."),
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": ResultIn.model_json_schema()}}},
    },
)
async def experiment_result(request: Request, api: TheApi) -> JSONResponse:
    """200 only after the result is durable. The same ``webhook-id`` again is the same result."""
    body = await request.body()
    refused = _refusal(request, api, body)
    if refused is not None:
        return JSONResponse({"error": refused}, 401)
    if len(body) > MAX_RESULT_BYTES:
        return JSONResponse({"error": f"the result is over the limit of {MAX_RESULT_BYTES} bytes"}, 413)
    try:
        parse(body)
        payload = from_json(body, allow_inf_nan=False)
        json.dumps(payload, allow_nan=False)
    except (ValueError, RecursionError) as error:
        return JSONResponse({"error": f"not a result: it is not JSON: {error}"}, 400)
    if not isinstance(payload, dict):
        return JSONResponse({"error": "not a result: it is not a JSON object"}, 400)
    try:
        experiment_id = _experiment_id.validate_python(payload.get("experiment_id"))
    except ValidationError:
        return JSONResponse({"error": "experiment_id is missing, or not a text of 1 to 200 characters"}, 400)
    webhook_id = request.headers.get("webhook-id") or f"body-{hashlib.sha256(body).hexdigest()}"
    if len(webhook_id) > MAX_ID_LENGTH:
        return JSONResponse({"error": f"webhook-id is longer than {MAX_ID_LENGTH} characters"}, 400)
    received = Received(
        webhook_id=webhook_id, experiment_id=experiment_id, received_at=api.clock.now(), payload=payload
    )
    try:
        async with api.jobs.watch.within():
            new = await api.inbox.receive(received)
    except StoreUnavailable as error:
        return JSONResponse({"error": str(error)}, row_of(error)[0], headers={"retry-after": "5"})
    return JSONResponse({"status": "received", "experiment_id": experiment_id, "repeated": not new})


def _refusal(request: Request, api: Api, body: bytes) -> str | None:
    """Why the push is not taken, None if it is."""
    headers = request.headers
    if api.push_secret is not None:
        return verify(
            api.push_secret,
            webhook_id=headers.get("webhook-id", ""),
            timestamp=headers.get("webhook-timestamp", ""),
            signatures=headers.get("webhook-signature", ""),
            body=body,
            now=api.clock.now(),
        )
    try:
        address = ip_address(request.client.host if request.client else "")
    except ValueError:
        return "pushes without a signature are taken from known networks only"
    # On a socket for both families an IPv4 caller shows as an IPv6 address.
    address = getattr(address, "ipv4_mapped", None) or address
    if any(address in network for network in api.legacy_networks):
        return None
    return f"pushes without a signature are not taken from {address}"
