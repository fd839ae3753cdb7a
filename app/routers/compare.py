"""Jobs side by side."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.domain.errors import Conflict, FieldError, InvalidSpec
from app.domain.evaluation import Report
from app.domain.job import Job
from app.routers.answers import CompareOut
from app.routers.api import TheApi
from app.routers.auth import Reader
from app.routers.jobs import seen
from app.routers.models import JobId, Name
from app.routers.responses import problems, success
from app.routers.view import ValueResponse

MOST_JOBS = 20

router = APIRouter(tags=["jobs"])
TheJobs = Annotated[list[JobId], Query(alias="job", min_length=1, max_length=MOST_JOBS, description="Ids of jobs.")]


@router.get(
    "/compare", responses={200: success(CompareOut, "Curves, and BD-rate against the anchor."), **problems(404, 409)}
)
async def compare_jobs(
    api: TheApi,
    caller: Reader,
    job: TheJobs,
    anchor: Annotated[JobId | None, Query(description="One of the jobs; the first if absent.")] = None,
    metric: Annotated[Name, Query(description="What the curves are of.")] = "psnr_yuv",
) -> Response:
    """RD curves of several jobs on the clips that they share (the same content and range of frames), and the BD-rate of
    each against the anchor: the mean of its clips' values, with the reason for each clip that has none."""
    anchor = anchor or job[0]
    if anchor not in job:
        raise InvalidSpec([FieldError(field="anchor", message=f"{anchor!r} is not one of the jobs")])
    reports = {job_id: _report_of(await seen(api, caller, job_id)) for job_id in job}
    offered = sorted({name for report in reports.values() for curves in report.rd.values() for name in curves})
    if metric not in offered:
        message = f"none of these jobs measured {metric!r}; there are: {', '.join(offered) or 'none'}"
        raise InvalidSpec([FieldError(field="metric", message=message)])
    return ValueResponse(await asyncio.to_thread(_compared, reports, anchor, metric))


def _report_of(job: Job) -> Report:
    if job.report is None:
        raise Conflict(f"job {job.id} is {job.status} and has no report")
    return job.report


def _compared(reports: dict[str, Report], anchor: str, metric: str) -> dict[str, Any]:
    # Brings scipy, half a second and 40 MB that a service which is never asked need not pay.
    from app.evaluator.compare import compare

    return asdict(compare(reports, anchor=anchor, metric=metric))
