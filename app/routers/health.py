"""Probes: is the process alive, and would it take a submission."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from app.domain.access import Scope
from app.domain.errors import StoreUnavailable
from app.routers.answers import AliveOut, ReadyOut
from app.routers.api import Api, TheApi
from app.routers.auth import Anyone, needs
from app.routers.lanes import lane_state
from app.routers.responses import RETRY_AFTER, success

router = APIRouter(tags=["service"])


@router.get("/livez", responses={200: success(AliveOut, "It answers.")}, response_model=None)
async def livez() -> dict[str, str]:
    """200 as long as the process answers; asks nobody else."""
    return {"status": "alive"}


_READY = success(ReadyOut, "A submission would be taken.")
_NOT_READY = success(ReadyOut, "A submission would be refused.", Retry_After=RETRY_AFTER)


@router.get("/readyz", responses={200: _READY, 503: _NOT_READY})
async def readyz(
    api: TheApi, caller: Anyone, verbose: Annotated[str | None, Query(max_length=8)] = None
) -> JSONResponse:
    """503 only when a submission would be refused; with ``verbose`` (for those who may read) each dependency."""
    store = await store_trouble(api)
    jail = api.jobs.jail
    refused = api.jobs.closed or jail.refusal or store
    body: dict[str, Any] = {"status": "ready" if refused is None else "unavailable"}
    if verbose is not None and verbose not in ("0", "false") and needs(Scope.READ)(caller):
        body["reason"] = refused
        body["checks"] = {
            "service": {"ok": api.jobs.closed is None, "reason": api.jobs.closed},
            "store": {"ok": store is None, "reason": store},
            "jail": {
                "ok": jail.refusal is None,
                "reason": jail.refusal,
                "layers": list(jail.layers),
                "minimum": jail.minimum,
            },
            "lanes": {
                name: {"ok": state.broken is None, "state": lane_state(state), "reason": state.broken}
                for name, state in api.board.states.items()
            },
            "delivery": _delivery_view(api),
        }
    return JSONResponse(body, 200 if refused is None else 503, headers={} if refused is None else {"retry-after": "5"})


def _delivery_view(api: Api) -> dict[str, Any]:
    refusing = api.service.outbox.refusing()
    return {
        "ok": not refusing,
        "refusing": list(refusing),
        "targets": sorted(api.targets),
        "waiting": api.service.outbox.waiting,
    }


async def store_trouble(api: Api) -> str | None:
    """Why nothing can be made durable at present, None if it can."""
    try:
        await api.jobs.probe()
    except StoreUnavailable as error:
        return str(error)
    return None
