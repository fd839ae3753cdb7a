"""How jobs and received results become items: their keys, their order, and what is too big for an item."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import zlib
from decimal import Decimal

from app.adapters.stores import rows
from app.adapters.stores.dynamo_schema import LISTED, LISTING, UNFINISHED
from app.adapters.stores.dynamo_table import KEY, Item
from app.domain.errors import NotFound, StoreUnavailable
from app.domain.job import Job
from app.ports import Blobs

# An item may have 409,600 bytes with all its names. What is larger than its share goes to the blob store, compressed.
MAX_REPORT_BYTES = 300_000
MAX_DOCUMENT_BYTES = 64_000
# A sort key may have 1,024 bytes and holds one of ours and the time.
MAX_KEY_BYTES = 900
JOBS, RECEIVED = "job", "received"


def short(name: str) -> str:
    """The name, or its hash where it is too long for a key."""
    raw = name.encode()
    return name if len(raw) <= MAX_KEY_BYTES else f"sha256#{hashlib.sha256(raw).hexdigest()}"


def key(kind: str, name: str) -> str:
    """``experiment#evo-3`` and the like: a key that no other kind and no other name has."""
    fits = len(name.encode()) <= MAX_KEY_BYTES
    return f"{kind}#{name}" if fits else f"{kind}-{short(name)}"


def experiment_key(experiment_id: str, owner: str) -> str:
    """An owner's name has no slash, so that no other owner's experiment has this key."""
    return key("experiment", experiment_id) if owner == "local" else key("experiment-of", f"{owner}/{experiment_id}")


def job_key(job_id: str) -> str:
    """A job's id itself, unless it could be taken for a key of another kind or is too long for one."""
    plain = job_id and "#" not in job_id and len(job_id.encode()) <= MAX_KEY_BYTES
    return job_id if plain else key("job", job_id)


def listed(at: float, of: str) -> str:
    """Text that sorts as the time does, then as the key: the bits of the double, with the sign turned."""
    bits = int.from_bytes(struct.pack(">d", at + 0.0), "big")
    ordered = ~bits & (2**64 - 1) if bits >> 63 else bits | 1 << 63
    return f"{ordered:016x}#{of}"


async def job_item(job: Job, epoch: int, blobs: Blobs) -> Item:
    of = job_key(job.id)
    item: Item = {
        KEY: of,
        "experiment_id": short(job.experiment_id),
        "status": job.status.value,
        "created_at": Decimal(repr(job.created_at)),
        "version": job.version,
        "epoch": epoch,
        LISTING: JOBS,
        LISTED: listed(job.created_at, of),
    }
    lane, report = rows.lane_of(job), rows.dump_report(job.report)
    if lane is not None:
        item["lane"] = lane
    if job.unfinished:
        item[UNFINISHED] = JOBS
    await pack(item, "document", rows.dump_job(job), MAX_DOCUMENT_BYTES, blobs)
    if report is not None:
        await pack(item, "report", report, MAX_REPORT_BYTES, blobs)
    return item


async def load_job(item: Item, blobs: Blobs) -> Job:
    """The job; with its report if that was read with the item."""
    document = await unpack(item, "document", blobs)
    if document is None:
        raise StoreUnavailable(f"the item {item.get(KEY)!r} is not a job's")
    return rows.load_job(document, await unpack(item, "report", blobs))


async def pack(item: Item, name: str, text: str, most_bytes: int, blobs: Blobs) -> None:
    """Put the text into the item or, if it is longer than that, into the blob store with a pointer in the item."""
    raw = text.encode()
    if len(raw) <= most_bytes:
        item[name] = text
    else:
        item[f"{name}_blob"] = await blobs.put(await asyncio.to_thread(zlib.compress, raw))


async def unpack(item: Item, name: str, blobs: Blobs) -> str | None:
    sha256 = item.get(f"{name}_blob")
    if sha256 is None:
        text = item.get(name)
        return None if text is None else str(text)
    try:
        return (await asyncio.to_thread(zlib.decompress, await blobs.get(str(sha256)))).decode()
    except NotFound as error:
        raise StoreUnavailable(
            f"the {name} of {item.get(KEY)!r} is the blob {sha256}, which this data folder does not have"
        ) from error
