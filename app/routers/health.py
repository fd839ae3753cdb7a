"""Probes: is the process alive, and would it take a submission."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from app.domain.errors import StoreUnavailable
from app.routers.api import Api, TheApi
from app.routers.lanes import lane_state

router = APIRouter(tags=["service"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """200 as long as the process answers; asks nobody else."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "A submission would be refused."}})
async def readyz(api: TheApi, verbose: Annotated[str | None, Query(max_length=8)] = None) -> JSONResponse:
    """503 only when a submission would be refused; with ``verbose`` each dependency by name."""
    store = await store_trouble(api)
    jail = api.jobs.jail
    refused = api.jobs.closed or jail.refusal or store
    body: dict[str, Any] = {"status": "ready" if refused is None else "unavailable"}
    if verbose is not None and verbose not in ("0", "false"):
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
                name: {"ok": not state.broken, "state": lane_state(state), "reason": state.trouble}
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
