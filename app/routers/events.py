"""A job's history: as JSON, and as a stream of server-sent events that goes on until the job has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response, StreamingResponse
from pydantic_core import to_json

from app.domain.errors import StoreUnavailable
from app.routers.api import Api, TheApi
from app.routers.auth import Reader
from app.routers.jobs import ThisJob, seen
from app.routers.models import EventsOut
from app.routers.responses import problems, success
from app.routers.view import ValueResponse, event_view

HEARTBEAT_S = 15.0
STREAM = "text/event-stream"

_HISTORY = {**success(EventsOut, "The history."), "content": {STREAM: {"schema": {"type": "string"}}}}

router = APIRouter(tags=["jobs"])
LastEventId = Annotated[int, Header(alias="last-event-id", ge=0, le=2**31, description="Only what came after it.")]


@router.get("/jobs/{job_id:job}/events", responses={200: _HISTORY, **problems(404)})
async def events(
    request: Request, api: TheApi, caller: Reader, job_id: ThisJob, last_event_id: LastEventId = 0
) -> Response:
    """Every change of the job's state: when, by whom, in which attempt. The last 50 are kept.

    As server-sent events: `state` for each change, with its number as id (`Last-Event-ID` resumes after it), `done` as
    the last one. To a caller that accepts `application/json` before anything else, what there is so far as JSON.
    """
    job = await seen(api, caller, job_id)
    if request.headers.get("accept", "").strip().startswith("application/json"):
        return ValueResponse({"job_id": job.id, "events": [event_view(event) for event in job.events]})
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_stream(api, job_id, last_event_id), media_type=STREAM, headers=headers)


async def _stream(api: Api, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Replay from the store, then wait for changes. It ends with the job, with the service, or if the store is away:
    whoever listens comes back with the number of what it had last."""
    with api.jobs.watch_job(job_id) as changed:
        while True:
            changed.clear()
            try:
                job = await api.jobs.get(job_id)
            except StoreUnavailable:
                return
            for event in job.events:
                if event.seq > after:
                    after = event.seq
                    yield _message("state", event_view(event), after)
            if job.status.terminal:
                yield _message("done", {"job_id": job.id, "state": job.status.value})
                return
            if api.jobs.closed is not None:
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), HEARTBEAT_S)
                except TimeoutError:
                    yield b": still here\n\n"


def _message(event: str, data: dict[str, Any], number: int | None = None) -> bytes:
    head = f"event: {event}\n" if number is None else f"id: {number}\nevent: {event}\n"
    return head.encode() + b"data: " + to_json(data) + b"\n\n"
