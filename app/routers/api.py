"""What the routes work with, and how they get at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from fastapi import Depends, Request

from app.domain.errors import StoreAway
from app.domain.job import Limits
from app.engine.board import Board
from app.engine.jobs import Jobs
from app.engine.room import Room
from app.engine.service import Service
from app.engine.switches import Switches
from app.ports import Blobs, Catalogue, Clock, Inbox
from app.routers.gate import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    jobs: Jobs
    board: Board
    service: Service
    switches: Switches
    policy: Policy
    inbox: Inbox
    blobs: Blobs
    room: Room
    store_kind: str
    store_endpoint: str
    blobs_endpoint: str
    catalogue: Catalogue
    clock: Clock
    worker_id: str
    own_url: str
    targets: Mapping[str, str]
    default_limits: Limits
    largest_limits: Limits
    push_secret: str | None
    legacy_networks: tuple[IPv4Network | IPv6Network, ...]

    def report_url(self, job_id: str) -> str:
        return f"{self.own_url}/jobs/{job_id}/report"


def running_api(request: Request) -> Api | None:
    """None while the service waits for what it needs to start."""
    return getattr(request.app.state, "api", None)


def waits_for(request: Request) -> str:
    """What a service that is not running waits for."""
    return request.app.state.start.waits_for or "the service is stopping"


def _api(request: Request) -> Api:
    """Raises ``StoreAway`` while there is none."""
    api = running_api(request)
    if api is None:
        raise StoreAway(waits_for(request))
    return api


TheApi = Annotated[Api, Depends(_api)]
