"""Jobs and received results in one DynamoDB table, through single conditional writes only.

===================================  ====================================================================
``job_id``                           item
===================================  ====================================================================
the job's id                         the job: document (with its delivery and events), report, version
``experiment#<experiment_id>``       ``ids``: its jobs' ids, newest first; the first that exists is newest
``experiment-of#<owner>/<its id>``   the same for an owner other than ``local``
``received#<webhook_id>``            a result that was pushed to us
``received-newest#<experiment_id>``  names the newest of those
``lease#holder``, ``schema#bitlane``  who holds the table; its schema
===================================  ====================================================================

What lies between two writes, should we die there:

- ``add`` writes the experiment's pointer, then the job. In between, the pointer's first id is no job: ``newest`` passes
  over it to the one before, which the pointer keeps until a later add has seen a job at its head. Nobody was told of
  the job, and nothing of it is found. The other order would leave a job that runs while its experiment shows an older.
- ``receive`` writes the result, then its pointer. In between, the result is kept but not yet shown; its sender was not
  answered, sends it again, and the repeat puts the pointer right.
- Blobs are written before the item that names them; one that is named by nobody does no harm.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any

from app.adapters.stores import dynamo_items as items
from app.adapters.stores import dynamo_schema as schema
from app.adapters.stores import rows
from app.adapters.stores.dynamo_schema import LISTED, LISTING, NEWEST_FIRST, UNFINISHED
from app.adapters.stores.dynamo_table import BATCH_GET, KEY, DynamoTable, Item, Terms, Value
from app.domain.errors import Conflict, StaleVersion, StoreUnavailable
from app.domain.job import Job
from app.ports import Blobs, JobFilter, Page, Received

POINTER_IDS = 100
POINTER_TRIES = 20
FILTERED_PAGE = 200
WITHOUT_REPORT = ("document", "document_blob")


class DynamoStore:
    """The ports ``Store`` and ``Inbox``. ``epoch`` is set once the lease is held; until then it is 0.

    ``table`` is one of ours or, with ``create``, made at ``open``. ``patience_s`` bounds each request with its retries.
    """

    def __init__(
        self,
        *,
        table: str,
        endpoint: str | None,
        region: str | None,
        blobs: Blobs,
        create: bool = False,
        epoch: int = 0,
        patience_s: float = 5.0,
    ) -> None:
        self.table = DynamoTable(name=table, endpoint=endpoint, region=region, patience_s=patience_s)
        self.epoch = epoch
        self._blobs = blobs
        self._create = create

    @property
    def endpoint(self) -> str:
        """Where the jobs are, for an operator."""
        return f"{self.table.where}, table {self.table.name}"

    async def open(self) -> None:
        """Make the client (this blocks for some 50 ms) and check the table. Raises ``StoreUnavailable``."""
        await self.table.open()
        try:
            if self._create:
                await schema.create(self.table)
            await schema.check(self.table)
        except BaseException:
            await self.table.close()
            raise

    async def close(self) -> None:
        await self.table.close()

    async def __aenter__(self) -> DynamoStore:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def add(self, job: Job) -> Job:
        stored = replace(job, version=1)
        item = await items.job_item(stored, self.epoch, self._blobs)
        if await self.table.get(items.job_key(job.id), (KEY,)) is None:
            await self._point(stored)
            if await self.table.put(item, None):
                return stored
        raise Conflict(f"a job with the id {job.id} exists")

    async def commit(self, job: Job) -> Job:
        stored = replace(job, version=job.version + 1)
        item = await items.job_item(stored, self.epoch, self._blobs)
        if not await self.table.put(item, (("version", "=", job.version), *self._fence)):
            raise StaleVersion(f"job {job.id} is not at version {job.version}, or a later holder has written it")
        return stored

    async def get(self, job_id: str) -> Job | None:
        item = await self.table.get(items.job_key(job_id))
        return None if item is None else await items.load_job(item, self._blobs)

    async def newest(self, experiment_id: str, owner: str = "local") -> Job | None:
        pointer = await self.table.get(items.experiment_key(experiment_id, owner))
        for job_id in _ids(pointer):
            job = await self.get(job_id)
            if job is not None and (job.experiment_id, job.owner) == (experiment_id, owner):
                return job
        return None

    async def page(self, wanted: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        terms: list[tuple[str, str, Value]] = [(LISTING, "=", items.JOBS)]
        if cursor is not None:
            created_at, job_id = rows.decode_cursor(cursor)
            terms.append((LISTED, "<", items.listed(created_at, items.job_key(job_id))))
        fields = {"status": wanted.state, "lane": wanted.lane}
        where: list[tuple[str, str, Value]] = [
            (name, "=", str(value)) for name, value in fields.items() if value is not None
        ]
        if wanted.experiment_id is not None:
            where.append(("experiment_id", "=", items.short(wanted.experiment_id)))
        size = max(FILTERED_PAGE, limit + 1) if where or wanted.owner is not None else limit + 1
        query = self.table.query(NEWEST_FIRST, terms, where=where, fields=WITHOUT_REPORT, page=size)
        found: list[Job] = []
        async with aclosing(query) as answers:
            async for item in answers:
                job = await items.load_job(item, self._blobs)
                if wanted.experiment_id in (None, job.experiment_id) and wanted.owner in (None, job.owner):
                    found.append(job)
                if len(found) > limit:
                    return Page(jobs=tuple(found[:limit]), cursor=rows.encode_cursor(found[limit - 1]))
        return Page(jobs=tuple(found))

    async def unfinished(self) -> AsyncIterator[Job]:
        """The index names most of them at once; a scan of the table itself finds those that the index lags behind."""
        seen: set[str] = set()
        named = [str(item[KEY]) async for item in self.table.query(UNFINISHED, [(UNFINISHED, "=", items.JOBS)])]
        for start in range(0, len(named), BATCH_GET):
            batch = named[start : start + BATCH_GET]
            for found, item in (await self.table.get_many(batch, (UNFINISHED, *WITHOUT_REPORT))).items():
                if UNFINISHED in item:
                    seen.add(found)
                    yield await items.load_job(item, self._blobs)
        async for item in self.table.scan(UNFINISHED, WITHOUT_REPORT):
            if item[KEY] not in seen:
                seen.add(str(item[KEY]))
                yield await items.load_job(item, self._blobs)

    async def receive(self, received: Received) -> bool:
        of = items.key("received", received.webhook_id)
        content = {"webhook_id": received.webhook_id, "experiment_id": received.experiment_id}
        item: Item = {
            KEY: of,
            "epoch": self.epoch,
            "document": json.dumps(content | {"received_at": received.received_at}),
        }
        await items.pack(item, "payload", rows.dump_payload(received.payload), items.MAX_REPORT_BYTES, self._blobs)
        kept = await self.table.put(item, None)
        first = received if kept else await self._received(received.webhook_id)
        await self._show(first or received, repeated=not kept)
        return kept

    async def received(self, experiment_id: str) -> Received | None:
        pointer = await self.table.get(items.key("received-newest", experiment_id))
        return None if pointer is None else await self._received(_content(pointer)["webhook_id"])

    async def experiments(self, *, limit: int) -> Sequence[str]:
        found: list[str] = []
        query = self.table.query(NEWEST_FIRST, [(LISTING, "=", items.RECEIVED)], fields=("document",), page=limit)
        async with aclosing(query) as answers:
            async for item in answers:
                found.append(_content(item)["experiment_id"])
                if len(found) == limit:
                    break
        return found

    @property
    def _fence(self) -> Terms:
        return (("epoch", "<=", self.epoch),)

    async def _point(self, job: Job) -> None:
        """Make the job the first of its experiment's ids, whether it exists yet or not."""
        of = items.experiment_key(job.experiment_id, job.owner)
        for _ in range(POINTER_TRIES):
            seen = await self.table.get(of)
            ids = _ids(seen)
            if job.id in ids:
                return
            if ids and await self.table.get(items.job_key(ids[0]), (KEY,)) is not None:
                ids = ids[:1]
            # The last id is the one that was seen to exist, so it is the last to go.
            kept = [job.id, *ids] if len(ids) < POINTER_IDS else [job.id, *ids[: POINTER_IDS - 2], ids[-1]]
            if await self.table.swap({KEY: of, "epoch": self.epoch, "ids": json.dumps(kept)}, seen, self._fence):
                return
            self._refuse_if_fenced(seen)
        raise StoreUnavailable(f"too many jobs are added to experiment {job.experiment_id} at once")

    async def _show(self, received: Received, *, repeated: bool) -> None:
        """Make this the experiment's newest result, unless a later one is; of two at the same time, the later comer."""
        of = items.key("received-newest", received.experiment_id)
        content = {"webhook_id": received.webhook_id, "experiment_id": received.experiment_id}
        order = items.listed(received.received_at, "")
        item: Item = {KEY: of, "epoch": self.epoch, "order": order, "document": json.dumps(content)}
        item |= {LISTING: items.RECEIVED, LISTED: items.listed(received.received_at, of)}
        for _ in range(POINTER_TRIES):
            seen = await self.table.get(of)
            if seen is not None and (str(seen["order"]) > order or (repeated and seen["order"] == order)):
                return
            if await self.table.swap(item, seen, self._fence):
                return
            self._refuse_if_fenced(seen)
        raise StoreUnavailable(f"too many results of experiment {received.experiment_id} come at once")

    def _refuse_if_fenced(self, seen: Item | None) -> None:
        if seen is not None and int(seen["epoch"]) > self.epoch:
            raise StaleVersion("a later holder of the store has written here")

    async def _received(self, webhook_id: str) -> Received | None:
        item = await self.table.get(items.key("received", webhook_id))
        if item is None:
            return None
        payload = await items.unpack(item, "payload", self._blobs) or "{}"
        return Received(**_content(item), payload=rows.load_payload(payload))


def _ids(pointer: Item | None) -> list[str]:
    return [] if pointer is None else list(json.loads(str(pointer["ids"])))


def _content(item: Item) -> dict[str, Any]:
    """What the item says of a received result, without its payload."""
    content: dict[str, Any] = json.loads(str(item["document"]))
    return content
