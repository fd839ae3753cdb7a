"""The native routes of jobs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse

from app.domain.errors import Conflict, FieldError, InvalidSpec
from app.domain.job import Job, Status
from app.engine.intake import Checked
from app.ports import JobFilter
from app.routers.api import Api, TheApi
from app.routers.models import (
    ExperimentId,
    JobId,
    JobOut,
    JobSpecIn,
    Name,
    PageOut,
    ProblemOut,
    given_code_names,
    submission_of,
)
from app.routers.view import ValueResponse, job_view

MAX_WAIT_S = 60.0
POLL_AFTER_S = "1"

router = APIRouter(tags=["jobs"])
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemOut, "content": {"application/problem+json": {}}}
    for status in (404, 409, 413, 415, 422, 429, 503, 507)
}
_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": JobOut, "description": "Accepted, durably."}, **_PROBLEMS}
DryRun = Annotated[bool, Query(description="Only say what would happen; 200.")]
WaitS = Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Answer when it ends, or then.")]
ThisJob = Annotated[JobId, Path(description="The job's id.")]


@router.post("/jobs", status_code=202, responses=_ACCEPTED)
async def submit(request: Request, spec: JobSpecIn, api: TheApi, dry_run: DryRun = False) -> JSONResponse:
    """Queue an experiment. When the 202 leaves, the job is durable and will end in exactly one result."""
    return await _submit(request, spec, api, job_id=None, dry_run=dry_run)


@router.put("/jobs/{job_id}", status_code=202, responses=_ACCEPTED)
async def submit_as(
    request: Request, job_id: ThisJob, spec: JobSpecIn, api: TheApi, dry_run: DryRun = False
) -> JSONResponse:
    """The same, with an id of your own; sending it again is safe."""
    return await _submit(request, spec, api, job_id=job_id, dry_run=dry_run)


async def _submit(request: Request, spec: JobSpecIn, api: Api, *, job_id: str | None, dry_run: bool) -> JSONResponse:
    submission = submission_of(
        spec,
        job_id=job_id,
        names=given_code_names(await request.json()),
        default=api.default_limits,
        largest=api.largest_limits,
    )
    if dry_run:
        return JSONResponse(_dry_run_view(api, await api.jobs.check(submission)))
    job = await api.jobs.submit(submission)
    headers = {"location": f"/jobs/{job.id}", "retry-after": POLL_AFTER_S}
    return ValueResponse(job_view(job, api.board), 202, headers=headers)


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


@router.get("/jobs", responses={200: {"model": PageOut}, 422: _PROBLEMS[422], 503: _PROBLEMS[503]})
async def list_jobs(
    api: TheApi,
    state: Annotated[Status | None, Query()] = None,
    lane: Annotated[Name | None, Query()] = None,
    experiment_id: Annotated[ExperimentId | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> JSONResponse:
    """Jobs, newest first, without their reports."""
    wanted = JobFilter(state=state, lane=lane, experiment_id=experiment_id)
    page = await api.jobs.page(wanted, limit=limit, cursor=cursor)
    return ValueResponse({"jobs": [job_view(job, api.board) for job in page.jobs], "cursor": page.cursor})


@router.get("/jobs/{job_id}", responses={200: {"model": JobOut}, 404: _PROBLEMS[404], 422: _PROBLEMS[422]})
async def get_job(api: TheApi, job_id: ThisJob, wait: WaitS = 0.0) -> JSONResponse:
    """One job. With ``wait`` the answer comes when the job ends, or after that many seconds."""
    job = await api.jobs.ended(job_id, within_s=wait) if wait else await api.jobs.get(job_id)
    return ValueResponse(job_view(job, api.board), headers=_until_ended(job))


def _until_ended(job: Job) -> dict[str, str]:
    return {} if job.status.terminal else {"retry-after": POLL_AFTER_S}


@router.post("/jobs/{job_id}/cancel", status_code=202, responses=_ACCEPTED)
async def cancel(api: TheApi, job_id: ThisJob) -> JSONResponse:
    """End a queued job at once, kill a running one. 409 with its state if it has ended already."""
    job = await api.jobs.cancel(job_id)
    return ValueResponse(job_view(job, api.board), 202, headers={"location": f"/jobs/{job.id}"})


@router.post("/jobs/{job_id}/redeliver", status_code=202, responses=_ACCEPTED)
async def redeliver(api: TheApi, job_id: ThisJob) -> JSONResponse:
    """Send the result to the orchestrator again."""
    job = await api.jobs.redeliver(job_id)
    return ValueResponse(job_view(job, api.board), 202, headers={"location": f"/jobs/{job.id}"})


@router.get("/jobs/{job_id}/report", responses={404: _PROBLEMS[404], 409: _PROBLEMS[409], 422: _PROBLEMS[422]})
async def report(api: TheApi, job_id: ThisJob, format: Annotated[str, Query(max_length=32)] = "json") -> JSONResponse:
    """The report of a job that has measured something; 409 before."""
    if format != "json":
        raise InvalidSpec([FieldError(field="format", message=f"no format {format!r}; there is: json")])
    job = await api.jobs.get(job_id)
    if job.report is None:
        raise Conflict(f"job {job_id} is {job.status} and has no report")
    return ValueResponse(job.report)
