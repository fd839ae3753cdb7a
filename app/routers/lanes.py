"""What the service can do: lanes, suites, limits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from app.domain.evaluation import Suite
from app.engine.board import LaneState
from app.routers.api import Api, TheApi

router = APIRouter(tags=["service"])


@router.get("/lanes")
async def lanes(api: TheApi) -> dict[str, Any]:
    """Each lane: the device that it stands on, its slots, what it does, how many jobs wait for it and how long."""
    return {"lanes": [_lane_view(api, state) for state in api.board.states.values()]}


def _lane_view(api: Api, state: LaneState) -> dict[str, Any]:
    lane, ready = state.lane, state.ready
    return {
        "name": lane.name,
        "device": lane.device,
        "kind": lane.kind.value,
        "device_name": ready.device_name if ready else None,
        "note": lane.note,
        "slots": lane.slots,
        "working": state.working,
        "state": lane_state(state),
        "reason": state.trouble,
        "depth": api.board.waiting.depth(lane.name),
        "wait_s": api.board.wait_s(lane.name),
        "processed": state.processed,
        "jail": list(ready.jail) if ready else [],
    }


def lane_state(state: LaneState) -> str:
    """``failed`` while no executor comes up, ``starting`` before the first did, else ``working`` or ``idle``."""
    if state.broken:
        return "failed"
    if state.working:
        return "working"
    return "starting" if state.ready is None else "idle"


@router.get("/suites")
async def suites(api: TheApi) -> dict[str, Any]:
    """Every suite with its clips: geometry, and the digest of the raw frames; and why others cannot be used."""
    return {
        "suites": [_suite_view(suite) for suite in api.catalogue.suites()],
        "problems": api.catalogue.problems(),
    }


def _suite_view(suite: Suite) -> dict[str, Any]:
    clips = [
        {
            "name": clip.name,
            "width": clip.width,
            "height": clip.height,
            "frames": clip.frames,
            "fps": float(clip.fps),
            "pix_fmt": clip.pix_fmt,
            "bit_depth": clip.bit_depth,
            "matrix": clip.matrix,
            "full_range": clip.full_range,
            "scaler": clip.scaler,
            "sha256": clip.sha256,
        }
        for clip in suite.clips
    ]
    return {"name": suite.name, "description": suite.description, "clips": clips}


@router.get("/limits")
async def limits(api: TheApi) -> dict[str, Any]:
    """Each limit of a job: what it is if nothing is said, and the most that may be asked for."""
    largest = asdict(api.largest_limits)
    return {
        "limits": {name: {"default": value, "max": largest[name]} for name, value in asdict(api.default_limits).items()}
    }
