"""The composition root: which parts the service is made of, and the order in which they start and stop."""

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.adapters.blobs.local import LocalBlobs
from app.adapters.clock import SystemClock
from app.adapters.disk import FolderDisk
from app.adapters.executors.local import LocalExecutor
from app.adapters.files import refusal
from app.adapters.inspector import ProcessInspector
from app.adapters.jail_probe import probe
from app.adapters.keys import KeyFile, check_session_secret, session_secret
from app.adapters.lane_modes import LaneModeFile
from app.adapters.push import HttpPusher
from app.adapters.spool import FileSpool
from app.adapters.stores.lease import FileLease, FileLock
from app.adapters.stores.sqlite import SqliteStore
from app.domain.errors import OpenDoor
from app.domain.evaluation import Json
from app.domain.jail import Jail
from app.domain.job import Job
from app.domain.lanes import Device
from app.domain.result import result_of
from app.engine.board import Board
from app.engine.bounds import Admission, Bounds
from app.engine.endings import Endings
from app.engine.feed import Feed
from app.engine.ids import Ids
from app.engine.intake import Intake
from app.engine.jobs import Jobs, Targets
from app.engine.outbox import Outbox
from app.engine.room import Room
from app.engine.service import Service
from app.engine.start import Start
from app.engine.switches import Switches
from app.evaluator.clips.catalogue import SuiteCatalogue
from app.evaluator.metrics import METRICS
from app.ports import Clock, Holder, Lease
from app.routers import auth, compare, errors, events, experiment, health, jobs, lanes, results
from app.routers.api import Api
from app.routers.door import BodyLimit, SecurityHeaders
from app.routers.gate import Gate, Policy
from app.routers.openapi import documented
from app.routers.sessions import Sessions
from app.settings import LOOPBACK_HOSTS, Settings, cores

if TYPE_CHECKING:
    from app.adapters.stores.dynamodb import DynamoStore

LOG = logging.getLogger("bitlane")
VERSION = "0.1.0"
WEB = Path(__file__).parent / "web"
DESCRIPTION = """Runs experiments with neural video codecs: each encode and each decode in a process of its own, every
number measured by the service."""


def _die(error: BaseException) -> None:
    """Without a server that can be asked to stop, a service that cannot go on ends its process."""
    os.kill(os.getpid(), 15)


def create_app(
    settings: Settings | None = None,
    *,
    on_fatal: Callable[[BaseException], None] = _die,
    clock: Clock | None = None,
) -> FastAPI:
    """The service as an ASGI application; everything starts with its lifespan and ends with it.

    Raises ``OpenDoor`` for settings that would let strangers in, ``StoreUnavailable`` for keys that cannot be read.
    """
    settings = settings or Settings()
    clock = clock or SystemClock()
    policy = _policy(settings, clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                app.state.api = await _start(settings, stack, policy, on_fatal)
                for name in app.state.api.service.endings.damaged:
                    LOG.warning("a result that was waiting in the spool cannot be read and was set aside: %s", name)
                yield

        app.state.start = Start(opened, clock=clock, tell=LOG.warning, on_fatal=on_fatal)
        async with app.state.start:
            yield

    app = FastAPI(
        title="Bitlane",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A path with a slash too many is no other path's, and the redirect would be to whatever host was asked for.
        redirect_slashes=False,
    )
    for module in (jobs, events, compare, lanes, health, experiment, results, auth):
        app.include_router(module.router)
    app.openapi = documented(app, policy)  # type: ignore[method-assign]  # the framework's own way
    errors.install(app)
    _add_pages(app)
    # The last one added is the first that a request meets.
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Gate, policy=policy)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=[str(net) for net in settings.trusted_proxies])
    app.add_middleware(SecurityHeaders)
    return app


def _policy(settings: Settings, clock: Clock) -> Policy:
    data = settings.data.absolute()
    policy = Policy(
        keys=KeyFile(data),
        sessions=Sessions(lambda: session_secret(data)),
        clock=clock,
        hosts=frozenset({*LOOPBACK_HOSTS, *settings.allowed_hosts}),
        open_to_loopback=settings.on_loopback,
        open_to_all=settings.trusted_network,
        behind_proxy=bool(settings.trusted_proxies),
        legacy_networks=tuple(settings.legacy_networks),
        admin_key=settings.admin_secret,
    )
    # Keys that cannot be read let nobody in; who starts the service should hear of it, and not only who calls.
    keys_required = policy.keys_required
    check_session_secret(data)
    if not (settings.on_loopback or settings.trusted_network or keys_required):
        raise OpenDoor(
            f"listening on {settings.host} without any key lets everyone who reaches it run code: make a key with"
            f" `bitlane keys add NAME --data {settings.data}` or set BITLANE_ADMIN_KEY, listen on 127.0.0.1, or say"
            " --trusted-network if only those who may submit can reach it"
        )
    return policy


def _add_pages(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=WEB), name="static")

    @app.get("/", include_in_schema=False)
    async def front() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(WEB / "docs.html")

    @app.get("/signin", include_in_schema=False)
    async def signin() -> FileResponse:
        return FileResponse(WEB / "signin.html")


async def _start(
    settings: Settings, stack: AsyncExitStack, policy: Policy, on_fatal: Callable[[BaseException], None]
) -> Api:
    clock = policy.clock
    data = _data_folder(settings)
    blobs = LocalBlobs(data / "blobs")
    store, lease = await _open_store(settings, stack, blobs, data, clock)
    # Only the holder of the lease may sweep away what an earlier process left half written.
    await blobs.open()
    catalogue = SuiteCatalogue(data)
    inspector = await stack.enter_async_context(ProcessInspector())
    room = _room(settings, data, clock)
    board = Board(lanes=settings.lane_list)
    switches = Switches(board=board, modes=LaneModeFile(data))
    await switches.restore()
    outbox = _outbox(settings, stack, clock)
    jobs_ = Jobs(
        store=store,
        blobs=blobs,
        intake=Intake(inspector=inspector, catalogue=catalogue, lanes=settings.lane_list, metrics=frozenset(METRICS)),
        board=board,
        feed=Feed(),
        clock=clock,
        ids=Ids(secrets.token_bytes),
        targets=Targets(names=frozenset(settings.push_targets)),
        admission=Admission(board=board, clock=clock, bounds=_bounds(settings)),
        outbox=outbox,
        jail=await _jail(settings),
        room=room,
    )
    service = Service(
        store=store,
        blobs=blobs,
        lease=lease,
        executors=_executors(settings, data),
        jobs=jobs_,
        endings=Endings(jobs=jobs_, spool=FileSpool(data / "spool"), clock=clock),
        board=board,
        outbox=outbox,
        clock=clock,
        lease_s=settings.lease_s,
        grace_s=settings.grace_s,
        on_fatal=on_fatal,
    )
    await stack.enter_async_context(service.running())
    return Api(
        jobs=jobs_,
        board=board,
        service=service,
        switches=switches,
        policy=policy,
        inbox=store,
        blobs=blobs,
        room=room,
        store_endpoint=store.endpoint,
        blobs_endpoint=str(blobs.root),
        catalogue=catalogue,
        clock=clock,
        **_told(settings),
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        queued=settings.max_queued,
        per_lane=settings.max_queued_per_lane,
        per_client=settings.max_queued_per_client,
    )


def _told(settings: Settings) -> dict[str, Any]:
    """What the routes have to know of the settings."""
    return {
        "store_kind": settings.store,
        "worker_id": settings.worker_id,
        "own_url": settings.own_url,
        "targets": settings.push_targets,
        "default_limits": settings.default_limits,
        "largest_limits": settings.largest_limits,
        "push_secret": settings.secret,
        "legacy_networks": tuple(settings.legacy_networks),
    }


async def _jail(settings: Settings) -> Jail:
    """An orchestrator has no lanes and runs nothing."""
    if not settings.lane_list:
        return Jail()
    return await probe(settings.jail_minimum, cuda={lane.kind is Device.CUDA for lane in settings.lane_list})


def _data_folder(settings: Settings) -> Path:
    data = settings.data.absolute()
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise refusal(error, f"the data folder {data} cannot be used (name one that this user may write)") from error
    return data


def _room(settings: Settings, data: Path, clock: Clock) -> Room:
    disk, reserve_bytes, warn_bytes = FolderDisk(data), settings.disk_reserve_bytes, settings.disk_warn_bytes
    return Room(disk, clock, reserve_bytes=reserve_bytes, warn_bytes=warn_bytes)


def _outbox(settings: Settings, stack: AsyncExitStack, clock: Clock) -> Outbox:
    pusher = HttpPusher(settings.push_targets, secret=settings.secret, clock=clock, user_agent=f"bitlane/{VERSION}")
    stack.push_async_callback(pusher.close)
    worker_id, own_url = settings.worker_id, settings.own_url

    def told(job: Job) -> dict[str, Json]:
        return result_of(job, worker_id=worker_id, report_url=f"{own_url}/jobs/{job.id}/report")

    return Outbox(pusher=pusher, clock=clock, result_of=told, jitter=random.random)


async def _open_store(
    settings: Settings, stack: AsyncExitStack, blobs: LocalBlobs, data: Path, clock: Clock
) -> tuple[SqliteStore | DynamoStore, Lease]:
    holder = Holder(worker_id=settings.worker_id, host=socket.gethostname(), data=str(data), pid=os.getpid())
    if settings.store == "sqlite":
        file_lease = FileLease(data, clock)
        epoch = await stack.enter_async_context(_held(file_lease, holder))
        return await stack.enter_async_context(SqliteStore(data, epoch=epoch)), file_lease
    # The AWS client takes half a second and 30 MB, which a service on SQLite need not pay.
    from app.adapters.stores.dynamo_lease import DynamoLease
    from app.adapters.stores.dynamodb import DynamoStore

    dynamo = await stack.enter_async_context(
        DynamoStore(
            table=settings.dynamodb_table,
            endpoint=settings.dynamodb_endpoint,
            region=settings.dynamodb_region,
            blobs=blobs,
            create=settings.dynamodb_create,
        )
    )
    lease = DynamoLease(dynamo.table, FileLock(data), clock, lease_s=settings.lease_s)
    dynamo.epoch = await stack.enter_async_context(_held(lease, holder))
    return dynamo, lease


@asynccontextmanager
async def _held(lease: Lease, holder: Holder) -> AsyncIterator[int]:
    """The lease's epoch while the store is ours. Raises ``StoreHeld`` if another service is active on it."""
    epoch = await lease.acquire(holder)
    try:
        yield epoch
    finally:
        await lease.release()


def _executors(settings: Settings, data: Path) -> dict[str, list[LocalExecutor]]:
    cpu_slots = sum(lane.slots for lane in settings.lane_list if lane.kind is Device.CPU)
    threads = max(1, cores() // max(1, cpu_slots))
    return {
        lane.name: [
            LocalExecutor(lane=lane, slot=slot, data_dir=data, threads=threads, jail_minimum=settings.jail_minimum)
            for slot in range(lane.slots)
        ]
        for lane in settings.lane_list
    }
