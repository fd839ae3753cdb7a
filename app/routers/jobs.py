"""The native routes of jobs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, ValidationError
from starlette.convertors import StringConvertor, register_url_convertor

from app.domain.access import Caller, Scope
from app.domain.errors import BitlaneError, Conflict, FieldError, Forbidden, InvalidSpec, NotFound
from app.domain.job import Job, Status
from app.engine.intake import Checked, Submission
from app.ports import JobFilter
from app.routers.answers import DryRunOut
from app.routers.api import Api, TheApi
from app.routers.auth import Reader, Submitter
from app.routers.conditional import KNOWN, MAX_WAIT_S, REPEATABLE, WAITING, answered, preferred_wait_s, repeat_key
from app.routers.errors import invalid_spec, of_error
from app.routers.models import (
    BATCH_SIZE,
    MAX_BATCH,
    BatchIn,
    BatchOut,
    ExperimentId,
    JobId,
    JobOut,
    JobSpecIn,
    Name,
    PageOut,
    given_code_names,
    submission_of,
)
from app.routers.responses import APPLIED, ETAG, LOCATION, RETRY_AFTER, not_modified, problems, success
from app.routers.strict import StrictRoute
from app.routers.view import ValueResponse, job_view

POLL_AFTER_S = "1"

router = APIRouter(tags=["jobs"], route_class=StrictRoute)


class JobConvertor(StringConvertor):
    """A job's id in a path. No job has the name of a route, so that every method there is that route's to answer."""

    regex = "(?!batch(?:/|$))[^/]+"


register_url_convertor("job", JobConvertor())

_ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: success(
        JobOut | DryRunOut,
        "The finished job, if `Prefer` asked to wait; or what would happen.",
        Preference_Applied=APPLIED,
    ),
    202: success(
        JobOut,
        "Accepted, durably.",
        Location=LOCATION,
        Retry_After={**RETRY_AFTER, "required": True},
        Preference_Applied=APPLIED,
    ),
    **problems(409, 429, 507),
}
_CHANGED: dict[int | str, dict[str, Any]] = {
    202: success(JobOut, "Done, durably.", Location=LOCATION),
    **problems(404, 409),
}
_JOB = success(JobOut, "The job; `Retry-After` until it has ended.", ETag=ETAG, Retry_After=RETRY_AFTER)


DryRun = Annotated[bool, Query(description="Only say what would happen; 200.")]
WaitS = Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Answer when it ends, or then.")]
SpecList = Annotated[list[dict[str, Any]], Field(json_schema_extra=BATCH_SIZE)]
ThisJob = Annotated[JobId, Path(description="The job's id.")]


@router.post("/jobs", status_code=202, responses=_ACCEPTED, openapi_extra={"parameters": [REPEATABLE, WAITING]})
async def submit(
    request: Request, spec: JobSpecIn, api: TheApi, caller: Submitter, dry_run: DryRun = False
) -> JSONResponse:
    """Queue an experiment. When the 202 leaves, the job is durable and will end in exactly one result.

    With an `Idempotency-Key` sending it again gives the same job; with `Prefer: wait=N` the answer is 200 with the
    finished job if it ends within N seconds.
    """
    return await _submit(request, spec, api, caller, job_id=None, dry_run=dry_run)


@router.put(
    "/jobs/{job_id:job}", status_code=202, responses=_ACCEPTED, openapi_extra={"parameters": [REPEATABLE, WAITING]}
)
async def submit_as(
    request: Request, job_id: ThisJob, spec: JobSpecIn, api: TheApi, caller: Submitter, dry_run: DryRun = False
) -> JSONResponse:
    """The same, with an id of your own; sending it again is safe."""
    return await _submit(request, spec, api, caller, job_id=job_id, dry_run=dry_run)


async def _submit(
    request: Request, spec: JobSpecIn, api: Api, caller: Caller, *, job_id: str | None, dry_run: bool
) -> JSONResponse:
    names = given_code_names(await request.json())
    submission = _submission(spec, api, caller, job_id=job_id, key=repeat_key(request), names=names)
    if dry_run:
        return JSONResponse(_dry_run_view(api, await api.jobs.check(submission)))
    job = await api.jobs.submit(submission)
    headers = {"location": f"/jobs/{job.id}"}
    wait_s = preferred_wait_s(request)
    if wait_s is not None:
        headers["preference-applied"] = f"wait={wait_s:g}"
        job = await api.jobs.ended(job.id, within_s=wait_s)
        if job.status.terminal:
            return ValueResponse(job_view(job, api.board), 200, headers=headers)
    return ValueResponse(job_view(job, api.board), 202, headers={**headers, "retry-after": POLL_AFTER_S})


def _submission(
    spec: JobSpecIn, api: Api, caller: Caller, *, job_id: str | None, key: str | None, names: dict[str, str]
) -> Submission:
    """Raises ``Forbidden`` for a priority that is not everybody's, ``InvalidSpec``."""
    if spec.priority > 0 and not caller.may(Scope.ADMIN):
        raise Forbidden(f"a priority above 0 needs a key with the scope {Scope.ADMIN.value!r}")
    submission = submission_of(spec, job_id=job_id, names=names, default=api.default_limits, largest=api.largest_limits)
    return replace(submission, client=caller.client, repeat_key=key)


@router.post(
    "/jobs/batch",
    responses={200: success(BatchOut, "An answer to each.")},
    openapi_extra={"parameters": [REPEATABLE]},
)
async def submit_batch(request: Request, batch: BatchIn | SpecList, api: TheApi, caller: Submitter) -> Any:
    """Queue up to 100 experiments, in their order. Each gets its own answer: a job, or what is wrong with it."""
    bodies = batch if isinstance(batch, list) else batch.jobs
    if not 1 <= len(bodies) <= MAX_BATCH:
        message = f"1 to {MAX_BATCH} specs are possible, not {len(bodies)}"
        raise InvalidSpec([FieldError(field="jobs", message=message)])
    key = repeat_key(request)
    results = [
        await _one_of_batch(body, api, caller, None if key is None else f"{key}#{index}")
        for index, body in enumerate(bodies)
    ]
    return ValueResponse({"results": results})


async def _one_of_batch(body: dict[str, Any], api: Api, caller: Caller, key: str | None) -> dict[str, Any]:
    try:
        spec = JobSpecIn.model_validate(body)
        names = given_code_names(body)
        job = await api.jobs.submit(_submission(spec, api, caller, job_id=None, key=key, names=names))
    except ValidationError as error:
        refused = of_error(invalid_spec(error.errors()))
    except BitlaneError as error:
        refused = of_error(error)
    else:
        return {"status": 202, "job": job_view(job, api.board)}
    return {"status": refused.status_code, "problem": json.loads(bytes(refused.body))}


def _dry_run_view(api: Api, checked: Checked) -> dict[str, Any]:
    spec = checked.spec
    return {
        "valid": True,
        "contract": spec.contract,
        "format": spec.frame_format,
        "lanes": sorted(checked.lanes),
        "suite": spec.suite,
        "clips": [
            {"name": clip.name, "frames": spec.frames.length(clip.frames), "width": clip.width, "height": clip.height}
            for clip in checked.clips
        ],
        "rate_points": len(spec.rate_points),
        "limits": asdict(spec.limits),
        "pixels": checked.pixels,
        "estimated_s": api.board.estimate_s(checked.lanes, checked.pixels),
    }


@router.get("/jobs", responses={200: success(PageOut, "A page of jobs.")})
async def list_jobs(
    api: TheApi,
    caller: Reader,
    state: Annotated[Status | None, Query()] = None,
    lane: Annotated[Name | None, Query()] = None,
    experiment_id: Annotated[ExperimentId | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> JSONResponse:
    """Jobs, newest first, without their reports: your own, or all with the scope `read:all`."""
    wanted = JobFilter(state=state, lane=lane, experiment_id=experiment_id, owner=caller.sees_only)
    page = await api.jobs.page(wanted, limit=limit, cursor=cursor)
    return ValueResponse({"jobs": [job_view(job, api.board) for job in page.jobs], "cursor": page.cursor})


@router.get(
    "/jobs/{job_id:job}",
    responses={200: _JOB, 304: not_modified(), **problems(404)},
    openapi_extra={"parameters": [KNOWN]},
)
async def get_job(request: Request, api: TheApi, caller: Reader, job_id: ThisJob, wait: WaitS = 0.0) -> Response:
    """One job. With ``wait`` the answer comes when the job ends, or after that many seconds."""
    job = await seen(api, caller, job_id)
    if wait and not job.status.terminal:
        job = await api.jobs.ended(job_id, within_s=wait)
    return answered(request, job_view(job, api.board), _until_ended(job))


async def seen(api: Api, caller: Caller, job_id: str) -> Job:
    """The job, if the caller may see it. Of others' jobs it hears no more than of those that do not exist."""
    job = await api.jobs.get(job_id)
    if not caller.sees(job.owner):
        raise NotFound(f"there is no job {job_id!r}")
    return job


async def _own(api: Api, caller: Caller, job_id: str) -> None:
    """Raises ``NotFound`` or ``Forbidden`` unless the caller may change the job."""
    job = await api.jobs.get(job_id)
    if caller.may(Scope.ADMIN) or job.owner == caller.client.name:
        return
    if caller.sees(job.owner):
        raise Forbidden(f"job {job_id} is another client's")
    raise NotFound(f"there is no job {job_id!r}")


def _until_ended(job: Job) -> dict[str, str]:
    return {} if job.status.terminal else {"retry-after": POLL_AFTER_S}


@router.post("/jobs/{job_id:job}/cancel", status_code=202, responses=_CHANGED)
async def cancel(api: TheApi, caller: Submitter, job_id: ThisJob) -> JSONResponse:
    """End a queued job at once, kill a running one. 409 with its state if it has ended already."""
    await _own(api, caller, job_id)
    job = await api.jobs.cancel(job_id, actor=caller.client.name)
    return ValueResponse(job_view(job, api.board), 202, headers={"location": f"/jobs/{job.id}"})


@router.post("/jobs/{job_id:job}/redeliver", status_code=202, responses=_CHANGED)
async def redeliver(api: TheApi, caller: Submitter, job_id: ThisJob) -> JSONResponse:
    """Send the result to the orchestrator again."""
    await _own(api, caller, job_id)
    job = await api.jobs.redeliver(job_id, actor=caller.client.name)
    return ValueResponse(job_view(job, api.board), 202, headers={"location": f"/jobs/{job.id}"})


@router.get(
    "/jobs/{job_id:job}/report",
    responses={
        200: success(dict[str, Any], "The report.", ETag=ETAG),
        304: not_modified(),
        **problems(404, 409),
    },
    openapi_extra={"parameters": [KNOWN]},
)
async def report(
    request: Request,
    api: TheApi,
    caller: Reader,
    job_id: ThisJob,
    format: Annotated[Literal["json"], Query(description="There is: json.")] = "json",
) -> Response:
    """The report of a job that has measured something; 409 before."""
    job = await seen(api, caller, job_id)
    if job.report is None:
        raise Conflict(f"job {job_id} is {job.status} and has no report")
    return answered(request, job.report, {})
