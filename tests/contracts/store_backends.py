"""The stores under test, each over real files or a real server process, and the jobs that go into them."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from app.adapters.blobs.local import LocalBlobs
from app.adapters.stores.dynamo_lease import DynamoLease
from app.adapters.stores.dynamo_schema import create
from app.adapters.stores.dynamo_table import DynamoTable
from app.adapters.stores.dynamodb import DynamoStore
from app.adapters.stores.lease import FileLease, FileLock
from app.adapters.stores.sqlite import SqliteStore
from app.domain.delivery import Delivery
from app.domain.evaluation import Measurement, Report
from app.domain.job import Attempt, Job, JobSpec, StateEvent, Status
from app.ports import Clock, Lease

START = 1_764_000_000.25


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One place where jobs are kept: a data folder and, for DynamoDB, a table of its own behind ``endpoint``."""

    kind: str
    data: Path
    table: str = ""
    endpoint: str | None = None

    def store(self, **settings: Any) -> AbstractAsyncContextManager[SqliteStore | DynamoStore]:
        """Another store on the same place, as a restarted service would open it."""
        if self.kind == "sqlite":
            return SqliteStore(self.data, **settings)
        return DynamoStore(
            table=self.table, endpoint=self.endpoint, region=None, blobs=self.blobs(), create=True, **settings
        )

    def blobs(self) -> LocalBlobs:
        return LocalBlobs(self.data / "blobs")

    @asynccontextmanager
    async def lease(self, clock: Clock, *, data: Path | None = None) -> AsyncIterator[Lease]:
        """A lease on this place for a service whose data folder is ``data``."""
        if self.kind == "sqlite":
            yield FileLease(self.data, clock)
            return
        table = DynamoTable(name=self.table, endpoint=self.endpoint, region=None)
        await table.open()
        try:
            await create(table)
            yield DynamoLease(table, FileLock(data or self.data), clock)
        finally:
            await table.close()

    def dump(self) -> str:
        return json.dumps([self.kind, str(self.data), self.table, self.endpoint])


def make_backend(kind: str, request: pytest.FixtureRequest, data: Path) -> Backend:
    if kind == "sqlite":
        return Backend(kind=kind, data=data)
    endpoint = request.getfixturevalue(kind.removeprefix("dynamodb-"))
    return Backend(kind=kind, data=data, table=f"jobs-{uuid.uuid4().hex}", endpoint=endpoint)


def load_backend(text: str) -> Backend:
    kind, data, table, endpoint = json.loads(text)
    return Backend(kind=kind, data=Path(data), table=table, endpoint=endpoint)


class ManualClock:
    """A clock that stands still until it is told otherwise; sleeping on it takes no time."""

    def __init__(self, now: float = START) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


SPEC = JobSpec(
    encoder_sha256="a" * 64,
    decoder_sha256="b" * 64,
    contract="native",
    body_sha256="c" * 64,
    rate_points=({"quality": 8}, {"q": 0.1, "deep": [None, True, {"x": [1, 1.0, -0.0, 10**30]}]}),
    labels={"run": "evo-3"},
)


def a_job(job_id: str, **changes: Any) -> Job:
    return replace(Job(id=job_id, experiment_id=f"experiment of {job_id}", spec=SPEC, created_at=START), **changes)


def running(job: Job, lane: str = "cpu") -> Job:
    number = job.attempt + 1
    attempt = Attempt(number=number, lane=lane, slot=0, device="cpu", device_name="a CPU", started_at=START + 1)
    event = StateEvent(seq=1, at=START + 1, event="Claimed", status=Status.RUNNING, attempt=number, actor="service")
    return replace(job, status=Status.RUNNING, attempts=(*job.attempts, attempt), events=(*job.events, event))


def succeeded(job: Job, report: Report, *, next_at: float | None = START + 9) -> Job:
    delivery = Delivery(id=f"msg_{job.id}", target="default", next_at=next_at)
    return replace(job, status=Status.SUCCEEDED, finished_at=START + 9, report=report, delivery=delivery)


def a_report(points: int = 1, note: str = "") -> Report:
    return Report(
        points=tuple(_point(index) for index in range(points)),
        summary=({"rate_point": 0, "psnr_yuv": 34.4},),
        rd={"bbb": {"psnr_yuv": [[121.6, 34.4], [1 / 3, 0.1]]}},
        provenance={"note": note},
    )


def _point(index: int) -> Measurement:
    return Measurement(
        clip="bbb",
        rate_point=index,
        params={"quality": index},
        frames=30,
        width=640,
        height=360,
        fps=25.0,
        bitstream_bytes=18234,
        bitrate_kbps=121.56,
        bpp=0.1 + 0.2,
        compression_ratio=568.6,
        metrics={"psnr_y": 33.123456789012345, "ssim": 5e-324},
        lossless=False,
        missing={"vmaf": "not asked for"},
        worst_frame={"psnr_y": 30.2},
        load_s=0.05,
        setup_s=-0.0,
        encode_s=0.41,
        decode_s=1.7976931348623157e308,
        encode_fps=73.1,
        decode_fps=136.3,
        peak_memory_bytes=None,
        bitstream_sha256="d" * 64,
        decoded_sha256="e" * 64,
    )
