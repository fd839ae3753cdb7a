"""What the service can do: lanes, suites, limits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path

from app.domain.evaluation import Suite
from app.domain.lanes import LaneMode
from app.engine.board import LaneState
from app.routers.answers import LaneOut, LanesOut, LimitsOut, SuitesOut
from app.routers.api import Api, TheApi
from app.routers.auth import Admin, Reader
from app.routers.models import Name
from app.routers.responses import problems, success

router = APIRouter(tags=["service"])


_TURNED: dict[int | str, dict[str, Any]] = {200: success(LaneOut, "The lane as it is now."), **problems(404)}
ThisLane = Annotated[Name, Path(description="The lane's name.")]


@router.get("/lanes", responses={200: success(LanesOut, "Every lane.")}, response_model=None)
async def lanes(api: TheApi, caller: Reader) -> dict[str, Any]:
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
        "mode": state.mode.value,
        "reason": state.trouble,
        "depth": api.board.waiting.depth(lane.name),
        "wait_s": api.board.wait_s(lane.name),
        "processed": state.processed,
        "jail": lane_jail(state),
    }


def lane_jail(state: LaneState) -> list[str]:
    """The layers that the lane's own jails have; they differ between kinds of device."""
    return list(state.ready.jail) if state.ready else []


def lane_state(state: LaneState) -> str:
    """``failed`` while no slot of it can take a job, ``paused`` where an operator wants it, ``starting`` before the
    first executor came up, else ``working`` or ``idle``. A lane that is drained works until there is nothing left."""
    if state.broken:
        return "failed"
    if state.mode is LaneMode.PAUSED:
        return "paused"
    if state.working:
        return "working"
    return "starting" if state.ready is None else "idle"


@router.post("/lanes/{name}/pause", responses=_TURNED, response_model=None)
async def pause(api: TheApi, caller: Admin, name: ThisLane) -> dict[str, Any]:
    """Start nothing more on this lane. What runs there runs on, what waits for it waits on."""
    return _lane_view(api, await api.switches.turn(name, LaneMode.PAUSED))


@router.post("/lanes/{name}/resume", responses=_TURNED, response_model=None)
async def resume(api: TheApi, caller: Admin, name: ThisLane) -> dict[str, Any]:
    """Take jobs again."""
    return _lane_view(api, await api.switches.turn(name, LaneMode.OPEN))


@router.post("/lanes/{name}/drain", responses=_TURNED, response_model=None)
async def drain(api: TheApi, caller: Admin, name: ThisLane) -> dict[str, Any]:
    """Run what waits for this lane alone, take no such job any more (503), and leave all else to other lanes."""
    return _lane_view(api, await api.switches.turn(name, LaneMode.DRAINING))


@router.get("/suites", responses={200: success(SuitesOut, "Every suite.")}, response_model=None)
async def suites(api: TheApi, caller: Reader) -> dict[str, Any]:
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


@router.get("/limits", responses={200: success(LimitsOut, "Every limit.")}, response_model=None)
async def limits(api: TheApi, caller: Reader) -> dict[str, Any]:
    """Each limit of a job: what it is if nothing is said, and the most that may be asked for."""
    largest = asdict(api.largest_limits)
    return {
        "limits": {name: {"default": value, "max": largest[name]} for name, value in asdict(api.default_limits).items()}
    }
