"""The routes of the system that Bitlane replaces, in that system's words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.convertors import StringConvertor, register_url_convertor

from app.domain.access import Caller, Scope
from app.domain.errors import Conflict, Draining, InvalidSpec, JailTooWeak, KeyReused, QueueFull, StoreUnavailable
from app.domain.job import Job, Status
from app.domain.lanes import Device
from app.domain.result import result_of
from app.engine.intake import Submission
from app.ports import JobFilter
from app.routers.answers import (
    AcceptedOut,
    ExperimentOut,
    ExperimentsOut,
    HealthOut,
    MissingOut,
    StatusOut,
    UnhealthyOut,
)
from app.routers.api import Api, TheApi, running_api, waits_for
from app.routers.auth import Reader, Submitter
from app.routers.conditional import REPEATABLE, repeat_key
from app.routers.errors import of_error
from app.routers.health import RETRY_AFTER, refusal
from app.routers.models import (
    CODE_NAMES,
    EXAMPLE,
    MAX_CODE_BYTES,
    ExperimentId,
    Name,
    check_params,
    digest,
    given_code_names,
)
from app.routers.responses import LOCATION, old_errors, success
from app.routers.strict import StrictRoute
from app.routers.view import queue_position

PASSED_ON = ("hypothesis", "compression_strategy", "expected_bitrate_mbps", "timestamp")
LISTED = 1000


class ExperimentConvertor(StringConvertor):
    """An experiment's name in a path: anything at all, also what cannot be one and gets the route's own 404."""

    regex = "(?s:.*)"


register_url_convertor("experiment", ExperimentConvertor())

router = APIRouter(tags=["legacy"], route_class=StrictRoute)
_experiment_id = TypeAdapter(ExperimentId)
_device = TypeAdapter(Name)


LEGACY_EXAMPLE = {
    "experiment_id": "exp-2026-017",
    "encoding_agent_code": EXAMPLE["encoder"],
    "decoding_agent_code": EXAMPLE["decoder"],
    "hypothesis": "a smaller transform loses less",
    "config": {"quality": 32},
    "device": "auto",
}


class ExperimentIn(BaseModel):
    """The body of ``POST /experiment``; other fields are ignored."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [LEGACY_EXAMPLE]})

    experiment_id: ExperimentId
    encoding_agent_code: str = Field(min_length=1, description="Or `encoding_code`.")
    decoding_agent_code: str = Field(min_length=1, description="Or `decoding_code`.")
    hypothesis: Any = None
    compression_strategy: Any = None
    expected_bitrate_mbps: Any = None
    timestamp: Any = None
    config: dict[str, Any] | Literal[""] | None = Field(None, description="The parameters of the one rate point.")
    device: Name | Literal[""] | None = Field("auto", description="A lane's name, a device kind, or `auto`.")


def _error(status: int, message: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers={name.replace("_", "-"): v for name, v in headers.items()})


def _in_old_words(
    route: Callable[..., Awaitable[JSONResponse]],
) -> Callable[..., Awaitable[JSONResponse]]:
    """Errors as ``{"error": ...}``: 400 for whatever is wrong with the body, the native status for all else."""

    @wraps(route)
    async def answered(*args: Any, **kwargs: Any) -> JSONResponse:
        try:
            return await route(*args, **kwargs)
        except InvalidSpec as error:
            return _error(400, str(error))
        except (Conflict, KeyReused, QueueFull, Draining, JailTooWeak, StoreUnavailable) as error:
            told = of_error(error)
            kept = {"retry_after": told.headers["retry-after"]} if "retry-after" in told.headers else {}
            return _error(told.status_code, str(error), **kept)

    return answered


@router.post(
    "/experiment",
    status_code=202,
    responses={
        202: success(AcceptedOut, "Accepted, durably.", Location=LOCATION),
        **old_errors(400, 409, 422, 429, 503, 507),
    },
    openapi_extra={
        "parameters": [REPEATABLE],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ExperimentIn.model_json_schema()}},
        },
    },
)
@_in_old_words
async def experiment(request: Request, api: TheApi, caller: Submitter) -> JSONResponse:
    """Queue an experiment; always 202, never 503 because another one runs."""
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        return _error(400, f"the body is not JSON: {error}")
    if not isinstance(body, dict):
        return _error(400, "the body is not a JSON object")
    submission = _submission(body, api)
    if isinstance(submission, str):
        return _error(400, submission)
    job = await api.jobs.submit(replace(submission, client=caller.client, repeat_key=repeat_key(request)))
    position = queue_position(job, api.board)
    return JSONResponse(
        {
            "status": "accepted",
            "state": job.status.value,
            "job_id": job.id,
            "experiment_id": job.experiment_id,
            "worker_id": api.worker_id,
            "queue_position": position,
            "message": f"experiment {job.experiment_id} is accepted as job {job.id}",
        },
        202,
        headers={"location": f"/jobs/{job.id}"},
    )


def _submission(body: dict[str, Any], api: Api) -> Submission | str:
    """The submission, or the sentence that says what is wrong with the body."""
    try:
        experiment_id = _experiment_id.validate_python(body.get("experiment_id"))
    except ValidationError:
        return "experiment_id is missing, or not a text of 1 to 200 characters"
    body = {name: value for name, value in body.items() if value is not None and value != ""}
    names = given_code_names(body)
    code: dict[str, str] = {}
    for native in CODE_NAMES:
        source = body.get(names[native])
        if not isinstance(source, str) or not source.strip():
            return f"{names[native] if names[native] != native else CODE_NAMES[native][1]} is missing or empty"
        try:
            size = len(source.encode())
        except UnicodeEncodeError:
            return f"{names[native]} is not valid Unicode"
        if size > MAX_CODE_BYTES:
            return f"{names[native]} has {size} bytes, over the limit of {MAX_CODE_BYTES}"
        code[native] = source
    config = body.get("config")
    if config is None:
        config = {}
    try:
        device = _device.validate_python(body.get("device", "auto"))
    except ValidationError:
        return "device is not a lane's name or a device"
    passed_on = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    if not isinstance(config, dict):
        return "config is not an object"
    for name, value in (("config", config), *((name, {name: value}) for name, value in passed_on.items())):
        try:
            check_params(value)
        except ValueError as error:
            return f"{name}: {error}"
    return Submission(
        encoder=code["encoder"],
        decoder=code["decoder"],
        body_sha256=digest({"experiment_id": experiment_id, **code, "config": config, "device": device}),
        experiment_id=experiment_id,
        device=device,
        rate_points=(config,),
        limits=api.default_limits,
        legacy=passed_on,
        field_names=names,
    )


def _about(api: Api) -> dict[str, Any]:
    devices = {state.lane.device for state in api.board.states.values() if state.lane.kind is Device.CUDA}
    return {
        "worker_id": api.worker_id,
        "device": "cuda" if devices else "cpu",
        "gpu_count": len(devices),
        "jobs_processed": sum(state.processed for state in api.board.states.values()),
        "timestamp": int(api.clock.now()),
    }


@router.get("/status", responses={200: success(StatusOut, "How busy it is.")}, response_model=None)
async def status(api: TheApi, caller: Reader) -> dict[str, Any]:
    """``is_processing`` is true only when a submission would be refused: callers skip a worker that says true."""
    return {**_about(api), "is_processing": api.jobs.refuses, "queue_length": api.board.queued}


@router.get(
    "/health",
    responses={200: success(HealthOut, "It takes jobs."), 503: success(UnhealthyOut, "Why it takes none.")},
)
async def health(request: Request) -> JSONResponse:
    api = running_api(request)
    if api is None:
        return JSONResponse({"status": "unhealthy", "reason": waits_for(request)}, 503, headers=RETRY_AFTER)
    trouble = await refusal(api)
    if trouble is not None:
        return JSONResponse({"status": "unhealthy", "reason": trouble, **_about(api)}, 503, headers=RETRY_AFTER)
    return JSONResponse({"status": "healthy", **_about(api)})


def _result(api: Api, job: Job) -> dict[str, Any]:
    return dict(result_of(job, worker_id=api.worker_id, report_url=api.report_url(job.id)))


@router.get(
    "/experiment/{experiment_id:experiment}/status",
    responses={
        200: success(ExperimentOut, "The result, or how far it is."),
        404: success(MissingOut, "No such experiment."),
    },
)
@_in_old_words
async def experiment_status(api: TheApi, caller: Reader, experiment_id: str) -> JSONResponse:
    """The result once there is one; a result of our own goes before one that was pushed to us."""
    try:
        _experiment_id.validate_python(experiment_id)
    except ValidationError:
        return JSONResponse({"status": "not_found", "experiment_id": experiment_id}, 404)
    job = await _newest(api, caller, experiment_id)
    if job is not None:
        if job.status.terminal:
            return JSONResponse(_result(api, job))
        state = "queued" if job.status is Status.QUEUED else "processing"
        return JSONResponse({"status": state, "experiment_id": experiment_id, "job_id": job.id})
    received = await api.inbox.received(experiment_id)
    if received is not None:
        return JSONResponse(received.payload)
    return JSONResponse({"status": "not_found", "experiment_id": experiment_id}, 404)


async def _newest(api: Api, caller: Caller, experiment_id: str) -> Job | None:
    """The caller's own job of that experiment; without one, of those that it may see the newest."""
    job = await api.jobs.newest(experiment_id, caller.client.name)
    if job is not None or not caller.may(Scope.READ_ALL):
        return job
    page = await api.jobs.page(JobFilter(experiment_id=experiment_id), limit=1, cursor=None)
    return await api.jobs.get(page.jobs[0].id) if page.jobs else None


@router.get("/experiments", responses={200: success(ExperimentsOut, "Ids, newest first.")}, response_model=None)
async def experiments(api: TheApi, caller: Reader) -> dict[str, Any]:
    """Ids of experiments, newest first, at most 1000 of each state."""
    active = [*await _ids(api, caller, Status.RUNNING), *await _ids(api, caller, Status.QUEUED)]
    ended = [job_id for state in Status if state.terminal for job_id in await _ids(api, caller, state)]
    ended += await api.inbox.experiments(limit=LISTED)
    running = set(active)
    return {
        "active_experiments": list(dict.fromkeys(active)),
        "completed_experiments": [name for name in dict.fromkeys(ended) if name not in running],
        "timestamp": int(api.clock.now()),
    }


async def _ids(api: Api, caller: Caller, state: Status) -> list[str]:
    page = await api.jobs.page(JobFilter(state=state, owner=caller.sees_only), limit=LISTED, cursor=None)
    return [job.experiment_id for job in page.jobs]
