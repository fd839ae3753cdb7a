"""Pushes results over HTTP to the operator's targets, freshly stamped and signed on each try."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import httpx

from app.domain.delivery import Answer
from app.domain.evaluation import Json
from app.domain.signing import sign
from app.ports import Clock

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 20.0
# Whatever the target does (a byte every few seconds), a try ends.
TRY_TIMEOUT_S = 30.0


class HttpPusher:
    """``targets`` maps names to base URLs; ``/experiment_result`` is added. Redirects are not followed."""

    def __init__(self, targets: Mapping[str, str], *, secret: str | None, clock: Clock, user_agent: str) -> None:
        self._targets = dict(targets)
        self._secret = secret
        self._clock = clock
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": user_agent, "content-type": "application/json"},
        )

    async def push(self, target: str, webhook_id: str, payload: dict[str, Json]) -> Answer:
        base = self._targets.get(target)
        if base is None:
            return Answer(status=None, error=f"this service has no target {target!r}")
        body = json.dumps(payload, allow_nan=False, separators=(",", ":")).encode()
        timestamp = int(self._clock.now())
        headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
        if self._secret is not None:
            headers["webhook-signature"] = sign(self._secret, webhook_id, timestamp, body)
        try:
            async with asyncio.timeout(TRY_TIMEOUT_S):
                async with self._client.stream(
                    "POST", base.rstrip("/") + "/experiment_result", content=body, headers=headers
                ) as response:
                    return self._answer(response)
        except TimeoutError:
            return Answer(status=None, error=f"no answer within {TRY_TIMEOUT_S:g} s")
        except (httpx.HTTPError, OSError) as error:
            return Answer(status=None, error=f"{type(error).__name__}: {error}".rstrip(": "))

    def _answer(self, response: httpx.Response) -> Answer:
        retry_after = _retry_after_s(response.headers.get("retry-after"), self._clock.now())
        return Answer(status=response.status_code, retry_after_s=retry_after)

    async def close(self) -> None:
        await self._client.aclose()


def _retry_after_s(value: str | None, now: float) -> float | None:
    """Seconds from a ``Retry-After`` header: a number or an HTTP date; None for anything else."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit() and len(value) < 12:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None
