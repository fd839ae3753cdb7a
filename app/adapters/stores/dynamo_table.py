"""One DynamoDB table: single items, written under conditions, with every answer checked and every fault bounded.

Attribute values are text, ints and Decimals; a float never reaches the wire.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, TypeAlias

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError

from app.domain.errors import StoreAway, StoreUnavailable

Value: TypeAlias = str | int | Decimal
Item: TypeAlias = dict[str, Value]
# (attribute, operator, value), all of which must hold
Terms: TypeAlias = Sequence[tuple[str, str, Value]]

KEY = "job_id"
WRITE = "write"
PAUSES_S = (0.1, 0.4, 1.2)
BATCH_GET = 100
TRANSIENT = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionConflictException",
    }
)


class DynamoTable:
    """``patience_s`` bounds each call with all its retries; then it raises ``StoreUnavailable``."""

    def __init__(self, *, name: str, endpoint: str | None, region: str | None, patience_s: float = 5.0) -> None:
        self.name = name
        self.where = endpoint or f"DynamoDB in {region or 'the default region'}"
        # A server that is named by its address needs no region, but the signature does.
        self._settings = {"endpoint_url": endpoint, "region_name": region or ("us-east-1" if endpoint else None)}
        self.patience_s = patience_s

    async def open(self) -> None:
        """Make the client. The first one of a process blocks for some 50 ms."""
        # Retries are ours alone: botocore's own would multiply with them, and pause for seconds in between.
        once = {"mode": "standard", "total_max_attempts": 1}
        config = AioConfig(connect_timeout=1, read_timeout=3, max_pool_connections=64, retries=once)
        try:
            self._context = _session().client("dynamodb", config=config, **self._settings)
            self._client = await self._context.__aenter__()
        except (BotoCoreError, ValueError) as error:
            raise StoreUnavailable(f"there is no way to {self.where}: {error}") from error

    async def close(self) -> None:
        await self._context.__aexit__(None, None, None)

    async def get(self, key: str, fields: Sequence[str] = ()) -> Item | None:
        """The item as last written, or the named attributes of it."""
        answer = await self.call("get_item", Key={KEY: {"S": key}}, ConsistentRead=True, **_projection(fields))
        return _unmarshal(answer["Item"]) if "Item" in answer else None

    async def get_many(self, keys: Iterable[str], fields: Sequence[str]) -> dict[str, Item]:
        """Those of the items that exist, as last written, by key."""
        found: dict[str, Item] = {}
        left: list[Any] = [{KEY: {"S": key}} for key in dict.fromkeys(keys)]
        idle = 0
        while left:
            ask = {"Keys": left[:BATCH_GET], "ConsistentRead": True, **_projection((KEY, *fields))}
            answer = await self.call("batch_get_item", RequestItems={self.name: ask})
            items = [_unmarshal(item) for item in answer.get("Responses", {}).get(self.name, [])]
            found.update((str(item[KEY]), item) for item in items)
            skipped = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            if len(skipped) == len(left[:BATCH_GET]):
                if idle == len(PAUSES_S):
                    raise StoreUnavailable(f"{self.where} leaves reads undone")
                await asyncio.sleep(PAUSES_S[idle])
                idle += 1
            left = skipped + left[BATCH_GET:]
        return found

    async def put(self, item: Item, terms: Terms | None) -> bool:
        """Write the whole item where the stored one meets the terms, or where there is none if ``terms`` is None.

        False if it does not. An answer that got lost is asked for again, and that second try finds the first one's
        item: each put leaves a mark of its own, by which it knows what it wrote itself.
        """
        mark = uuid.uuid4().hex
        names, values, condition = _condition(terms)
        try:
            await self.call(
                "put_item",
                Item=_marshal({**item, WRITE: mark}),
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                **({"ExpressionAttributeValues": values} if values else {}),
            )
        except _ConditionFailed:
            stored = await self.get(str(item[KEY]), (WRITE,))
            return stored is not None and stored.get(WRITE) == mark
        return True

    async def swap(self, item: Item, seen: Item | None, terms: Terms = ()) -> bool:
        """Put the item if the stored one is still the one that was seen (none, if None was)."""
        return await self.put(item, None if seen is None else ((WRITE, "=", seen[WRITE]), *terms))

    async def query(
        self,
        index: str,
        terms: Terms,
        *,
        where: Terms = (),
        fields: Sequence[str] = (),
        page: int | None = None,
        newest_first: bool = True,
    ) -> AsyncGenerator[Item, None]:
        """Items of an index, which may lag behind the table: those that meet ``terms``, and of them those ``where``."""
        names, values, condition = _condition(terms)
        filters: dict[str, Any] = {}
        if where:
            more_names, more_values, filters["FilterExpression"] = _condition(where, prefix="f")
            names, values = names | more_names, values | more_values
        projection = _projection(fields)
        names |= projection.pop("ExpressionAttributeNames", {})
        limit = {"Limit": page} if page else {}
        ask = {
            "IndexName": index,
            "KeyConditionExpression": condition,
            "ScanIndexForward": not newest_first,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            **filters,
            **projection,
            **limit,
        }
        async for item in self._pages("query", ask):
            yield item

    async def scan(self, attribute: str, fields: Sequence[str]) -> AsyncGenerator[Item, None]:
        """Every item that has the attribute; nothing that was written before this began is missed."""
        ask = _projection((KEY, attribute, *fields)) | {"ConsistentRead": True}
        ask["FilterExpression"] = "attribute_exists(#has)"
        ask["ExpressionAttributeNames"]["#has"] = attribute
        async for item in self._pages("scan", ask):
            yield item

    async def _pages(self, operation: str, ask: Mapping[str, Any]) -> AsyncGenerator[Item, None]:
        start: dict[str, Any] = {}
        while True:
            answer = await self.call(operation, **ask, **start)
            for item in answer["Items"]:
                yield _unmarshal(item)
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def call(self, operation: str, **ask: Any) -> dict[str, Any]:
        """One data operation, tried again after transient faults. Raises ``StoreUnavailable``."""
        if operation != "batch_get_item":
            ask["TableName"] = self.name
        # The capacity in the answer proves that DynamoDB wrote it: botocore reads any 200 as an empty answer, which
        # would be "written" for a put and "no such item" for a get.
        return await self.control(operation, proof="ConsumedCapacity", ReturnConsumedCapacity="TOTAL", **ask)

    async def control(self, operation: str, *, proof: str | None = None, **ask: Any) -> dict[str, Any]:
        """One operation of the client by name; ``proof`` is a field that the answer must have."""
        last: Exception | None = None
        try:
            async with asyncio.timeout(self.patience_s):
                for pause_s in (0.0, *PAUSES_S):
                    await asyncio.sleep(pause_s)
                    try:
                        answer: dict[str, Any] = await getattr(self._client, operation)(**ask)
                        if proof is None or proof in answer:
                            return answer
                        last = ResponseParserError("the answer is not DynamoDB's")
                    except (ClientError, BotoCoreError, ResponseParserError) as error:
                        last = _transient_or_raise(error, self.where, self.name)
        except TimeoutError:
            pass
        raise StoreAway(f"{self.where} does not answer: {last or 'no answer in time'}") from last


@cache
def _session() -> aioboto3.Session:
    """One for the process: it holds AWS's descriptions of its services, which take some 50 ms to read."""
    return aioboto3.Session()


class _ConditionFailed(Exception):
    """The stored item is not as the put wanted it."""


def _transient_or_raise(error: Exception, where: str, table: str) -> Exception:
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "ConditionalCheckFailedException":
            raise _ConditionFailed from error
        if code == "ResourceNotFoundException":
            raise StoreUnavailable(f"{where} has no table {table!r}: let Bitlane create it") from error
        if code not in TRANSIENT and status < 500:
            raise StoreUnavailable(f"{where} refuses: {error}") from error
    elif not isinstance(error, ConnectionError | HTTPClientError | ResponseParserError):
        raise StoreUnavailable(f"there is no way to {where}: {error}") from error
    return error


def _marshal(item: Item) -> dict[str, dict[str, str]]:
    return {name: _marshal_value(value) for name, value in item.items()}


def _marshal_value(value: Value) -> dict[str, str]:
    return {"S": value} if isinstance(value, str) else {"N": str(value)}


def _unmarshal(item: Mapping[str, Mapping[str, str]]) -> Item:
    return {name: value["S"] if "S" in value else _number(value["N"]) for name, value in item.items()}


def _number(text: str) -> int | Decimal:
    number = Decimal(text)
    return int(number) if number == number.to_integral_value() else number


def _condition(terms: Terms | None, prefix: str = "c") -> tuple[dict[str, str], dict[str, Any], str]:
    """Names, values and text of an expression; every name goes through an alias, since many words are reserved."""
    if terms is None:
        return {"#key": KEY}, {}, "attribute_not_exists(#key)"
    numbered = list(enumerate(terms))
    names = {f"#{prefix}{i}": name for i, (name, _, _) in numbered}
    values = {f":{prefix}{i}": _marshal_value(value) for i, (_, _, value) in numbered}
    return names, values, " AND ".join(f"#{prefix}{i} {operator} :{prefix}{i}" for i, (_, operator, _) in numbered)


def _projection(fields: Sequence[str]) -> dict[str, Any]:
    if not fields:
        return {}
    names = {f"#p{i}": name for i, name in enumerate(dict.fromkeys(fields))}
    return {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
