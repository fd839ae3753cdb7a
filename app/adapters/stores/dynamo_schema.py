"""The table that a ``DynamoStore`` needs: made on request, and checked before it is used."""

from __future__ import annotations

import asyncio
from typing import Any

from botocore.exceptions import ClientError

from app.adapters.stores.dynamo_table import KEY, DynamoTable, Item
from app.domain.errors import StoreUnavailable

SCHEMA_VERSION = 1
SCHEMA_KEY = "schema#bitlane"
NEWEST_FIRST = "newest_first"
UNFINISHED = "unfinished"
LISTING, LISTED = "listing", "listed"
# What a list of jobs needs, so that it never reads a report.
IN_LISTS = ("status", "lane", "experiment_id", "document", "document_blob")
POLL_S = 0.2
CREATE_S = 120.0


def _index(name: str, key: str, projection: dict[str, Any]) -> dict[str, Any]:
    schema = [{"AttributeName": key, "KeyType": "HASH"}, {"AttributeName": LISTED, "KeyType": "RANGE"}]
    return {"IndexName": name, "KeySchema": schema, "Projection": projection}


DEFINITION: dict[str, Any] = {
    "BillingMode": "PAY_PER_REQUEST",
    "KeySchema": [{"AttributeName": KEY, "KeyType": "HASH"}],
    "AttributeDefinitions": [
        {"AttributeName": name, "AttributeType": "S"} for name in (KEY, LISTING, LISTED, UNFINISHED)
    ],
    "GlobalSecondaryIndexes": [
        _index(NEWEST_FIRST, LISTING, {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(IN_LISTS)}),
        _index(UNFINISHED, UNFINISHED, {"ProjectionType": "KEYS_ONLY"}),
    ],
}


async def create(table: DynamoTable) -> None:
    """Make the table unless there is one, and wait until it and its indexes can be used."""
    try:
        await table.control("create_table", TableName=table.name, **DEFINITION)
    except StoreUnavailable as error:
        if not _exists_already(error):
            raise
    try:
        async with asyncio.timeout(CREATE_S):
            while True:
                if await _active(table):
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StoreUnavailable(f"table {table.name!r} was not ready {CREATE_S:.0f} s after it was made") from None


async def check(table: DynamoTable) -> None:
    """Stamp the table with our schema. Raises ``StoreUnavailable`` for one that is foreign, or of a newer Bitlane."""
    described = (await table.control("describe_table", proof="Table", TableName=table.name))["Table"]
    indexes = {index["IndexName"] for index in described.get("GlobalSecondaryIndexes", [])}
    if described["KeySchema"] != DEFINITION["KeySchema"] or not {NEWEST_FIRST, UNFINISHED} <= indexes:
        raise StoreUnavailable(
            f"table {table.name!r} is not Bitlane's (it needs the key {KEY!r} and the indexes {NEWEST_FIRST!r} and"
            f" {UNFINISHED!r}): name another table"
        )
    ours: Item = {KEY: SCHEMA_KEY, "version": SCHEMA_VERSION}
    stamp = await table.get(SCHEMA_KEY)
    if stamp is None and not await table.put(ours, None):
        stamp = await table.get(SCHEMA_KEY)
    if stamp is not None and stamp["version"] != SCHEMA_VERSION:
        raise StoreUnavailable(
            f"table {table.name!r} has schema {stamp['version']}, this Bitlane knows schema {SCHEMA_VERSION}: start the"
            " Bitlane that wrote it, or name another table"
        )


async def _active(table: DynamoTable) -> bool:
    described = (await table.control("describe_table", proof="Table", TableName=table.name))["Table"]
    parts = [described["TableStatus"], *(index["IndexStatus"] for index in described.get("GlobalSecondaryIndexes", []))]
    return all(part == "ACTIVE" for part in parts)


def _exists_already(error: StoreUnavailable) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response["Error"]["Code"] == "ResourceInUseException"
