"""A job as its resource shows it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi.responses import JSONResponse
from pydantic_core import to_json

from app.domain.job import Attempt, Fault, Job, StateEvent, Status
from app.engine.board import Board
from app.routers.models import rfc3339


class ValueResponse(JSONResponse):
    """JSON of plain values and dataclasses, without copying a large report into dicts first."""

    def render(self, content: Any) -> bytes:
        return to_json(content, inf_nan_mode="constants")


def job_view(job: Job, board: Board) -> dict[str, Any]:
    """The resource, for ``ValueResponse``."""
    newest = job.attempts[-1] if job.attempts else None
    running = board.running.get(job.id) if job.status is Status.RUNNING else None
    progress = running.progress if running is not None else None
    fault = job.fault
    return {
        "id": job.id,
        "experiment_id": job.experiment_id,
        "owner": job.owner,
        "state": job.status.value,
        "cancel_requested": job.cancel_requested,
        "lane": newest.lane if newest else None,
        "device": newest.device if newest else None,
        "device_name": newest.device_name if newest else None,
        "contract": job.spec.contract,
        "suite": job.spec.suite,
        "clips": list(job.spec.clips),
        "priority": job.spec.priority,
        "labels": job.spec.labels,
        "queue_position": queue_position(job, board),
        "attempt": job.attempt,
        "attempts": [attempt_view(attempt) for attempt in job.attempts],
        "created_at": rfc3339(job.created_at),
        "started_at": rfc3339(job.started_at),
        "finished_at": rfc3339(job.finished_at),
        "progress": asdict(progress) if progress else None,
        "fault": fault.blame.value if fault else None,
        "error_type": fault.error_type.value if fault else None,
        "error": error_view(fault) if fault else None,
        "delivery": delivery_view(job),
        "report": job.report,
        "links": {
            "self": f"/jobs/{job.id}",
            "events": f"/jobs/{job.id}/events",
            "report": f"/jobs/{job.id}/report",
            "cancel": f"/jobs/{job.id}/cancel",
            "redeliver": f"/jobs/{job.id}/redeliver",
        },
    }


def event_view(event: StateEvent) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": rfc3339(event.at),
        "event": event.event,
        "state": event.status.value,
        "attempt": event.attempt,
        "actor": event.actor,
        "reason": event.reason,
    }


def attempt_view(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "lane": attempt.lane,
        "device_name": attempt.device_name,
        "started_at": rfc3339(attempt.started_at),
        "ended_at": rfc3339(attempt.ended_at),
        "ended": attempt.ended,
        "reason": attempt.reason,
    }


def error_view(fault: Fault) -> dict[str, Any]:
    """Limits in bytes are whole numbers."""
    told = {name: value for name, value in asdict(fault).items() if name != "error_type"}
    for name in ("limit", "used"):
        if isinstance(told[name], float) and told[name].is_integer():
            told[name] = int(told[name])
    return told


def queue_position(job: Job, board: Board) -> int | None:
    """0 is next; a job that was picked and is being claimed is next too; None if no lane of this service fits."""
    if job.status is not Status.QUEUED or job.id in board.stranded:
        return None
    return board.waiting.position(job.id) or 0


def delivery_view(job: Job) -> dict[str, Any] | None:
    delivery = job.delivery
    if delivery is None:
        return None
    return {
        "state": delivery.state.value,
        "target": delivery.target,
        "attempts": delivery.attempts,
        "next_at": rfc3339(delivery.next_at),
        "delivered_at": rfc3339(delivery.delivered_at),
        "last_error": delivery.last_error,
    }
