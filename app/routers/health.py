"""Probes: is the process alive, and would it take a submission."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from app.domain.access import Scope
from app.domain.errors import StoreUnavailable
from app.engine.jobs import PROBE_S
from app.engine.watch import Trouble
from app.routers.answers import AliveOut, ReadyOut
from app.routers.api import Api, running_api, waits_for
from app.routers.auth import Anyone, needs
from app.routers.lanes import lane_jail, lane_state
from app.routers.models import rfc3339
from app.routers.responses import RETRY_AFTER as RETRY_AFTER_HEADER
from app.routers.responses import success

RETRY_AFTER = {"retry-after": "5"}

router = APIRouter(tags=["service"])


@router.get("/livez", responses={200: success(AliveOut, "It answers.")}, response_model=None)
async def livez() -> dict[str, str]:
    """200 as long as the process answers; asks nobody else."""
    return {"status": "alive"}


_READY = success(ReadyOut, "A submission would be taken.")
_NOT_READY = success(ReadyOut, "A submission would be refused.", Retry_After=RETRY_AFTER_HEADER)


@router.get("/readyz", responses={200: _READY, 503: _NOT_READY})
async def readyz(
    request: Request, caller: Anyone, verbose: Annotated[str | None, Query(max_length=8)] = None
) -> JSONResponse:
    """503 only when a submission would be refused; ``verbose`` names each dependency, to those who may read.

    It answers whatever hangs.
    """
    told = verbose is not None and verbose not in ("0", "false") and bool(needs(Scope.READ)(caller))
    api = running_api(request)
    if api is None:
        reason = waits_for(request)
        refused, checks = reason, {"service": {"ok": False, "reason": reason}}
    else:
        troubles = await _troubles(api)
        refused = _refusal(api, troubles)
        checks = await _checks(api, troubles) if told else {}
    body: dict[str, Any] = {"status": "ready" if refused is None else "unavailable"}
    if told:
        body |= {"reason": refused, "checks": checks}
    return JSONResponse(body, 200 if refused is None else 503, headers={} if refused is None else RETRY_AFTER)


async def refusal(api: Api) -> str | None:
    """Why a submission would be refused at present, None if it would not."""
    return _refusal(api, await _troubles(api))


def _refusal(api: Api, troubles: dict[str, str | None]) -> str | None:
    reasons = (api.jobs.closed, api.jobs.jail.refusal, *troubles.values())
    return next((reason for reason in reasons if reason is not None), None)


async def _troubles(api: Api) -> dict[str, str | None]:
    """Why nothing can be made durable in each of the places that have to take a submission, None where it can."""
    asked = {"store": api.jobs.probe(), "disk": api.room.check(), "blobs": api.blobs.check()}
    return dict(zip(asked, await asyncio.gather(*map(_trouble, asked.values())), strict=True))


async def _trouble(check: Awaitable[None]) -> str | None:
    try:
        async with asyncio.timeout(PROBE_S):
            await check
    except TimeoutError:
        return f"no answer within {PROBE_S:g} s"
    except StoreUnavailable as error:
        return str(error)
    return None


async def _checks(api: Api, troubles: dict[str, str | None]) -> dict[str, Any]:
    jail = api.jobs.jail
    return {
        "service": {"ok": api.jobs.closed is None, "reason": api.jobs.closed},
        "store": {
            **_check(troubles["store"]),
            "kind": api.store_kind,
            "endpoint": api.store_endpoint,
            **_since(api.jobs.watch.trouble, "away_since"),
        },
        "blobs": {**_check(troubles["blobs"]), "endpoint": api.blobs_endpoint},
        "disk": await _disk_view(api, troubles["disk"]),
        "spool": _spool_view(api),
        "jail": {**_check(jail.refusal), "layers": list(jail.layers), "minimum": jail.minimum},
        "lanes": {
            name: {
                "ok": not state.broken,
                "reason": state.trouble,
                "state": lane_state(state),
                "jail": lane_jail(state),
            }
            for name, state in api.board.states.items()
        },
        "delivery": _delivery_view(api),
    }


def _check(reason: str | None) -> dict[str, Any]:
    return {"ok": reason is None, "reason": reason}


def _since(trouble: Trouble | None, name: str) -> dict[str, Any]:
    if trouble is None:
        return {name: None, "last_error": None}
    return {name: rfc3339(trouble.since), "last_error": trouble.last_error}


async def _disk_view(api: Api, reason: str | None) -> dict[str, Any]:
    view: dict[str, Any] = {**_check(reason), "warning": None, "free_bytes": None, "total_bytes": None}
    try:
        async with asyncio.timeout(PROBE_S):
            space = await api.room.space()
            view["warning"] = await api.room.warning()
    except (TimeoutError, StoreUnavailable):
        return view
    return {**view, "free_bytes": space.free_bytes, "total_bytes": space.total_bytes}


def _spool_view(api: Api) -> dict[str, Any]:
    endings = api.service.endings
    unwanted = {f"{job_id}.{attempt}": reason for (job_id, attempt), reason in endings.unwanted.items()}
    return {
        "ok": not (endings.waiting or endings.damaged or unwanted),
        "waiting": endings.waiting,
        "only_in_memory": endings.unsafe,
        "last_error": endings.spool_error,
        "damaged": list(endings.damaged),
        "unwanted": unwanted,
    }


def _delivery_view(api: Api) -> dict[str, Any]:
    refusing = api.service.outbox.refusing()
    targets = {
        name: {"ok": name not in refusing, "url": url, **_since(refusing.get(name), "refusing_since")}
        for name, url in sorted(api.targets.items())
    }
    return {
        "ok": not refusing,
        "refusing": list(refusing),
        "targets": targets,
        "waiting": api.service.outbox.waiting,
    }
