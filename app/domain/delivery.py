"""How a result reaches the orchestrator: one delivery a job, tried until it is taken or given up.

The schedule and the answers' meaning are those of ``wire.md``'s push: 2xx is success, 410 stops, other 4xx but 408, 425
and 429 are dead at once, all else is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

BACKOFF_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0)
JITTER = 0.1
MAX_RETRY_AFTER_S = 72_000.0
RETRYABLE_4XX = frozenset({408, 425, 429})


class DeliveryState(StrEnum):
    NONE = "none"  # the service has nowhere to send it
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """``id`` is the push's ``webhook-id``, the same on every try."""

    id: str
    target: str | None
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    next_at: float | None = None
    delivered_at: float | None = None
    last_error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of one try: an HTTP status, or None and why there was none."""

    status: int | None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def final(self) -> bool:
        """Whether the target said that no further try will help."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in RETRYABLE_4XX


def first(job_id: str, target: str | None, now: float) -> Delivery:
    """The delivery of a job that has just ended: due at once, or ``none`` without a target."""
    if target is None:
        return Delivery(id=f"msg_{job_id}", target=None, state=DeliveryState.NONE)
    return Delivery(id=f"msg_{job_id}", target=target, next_at=now)


def settle(delivery: Delivery, answer: Answer, now: float, jitter: float) -> Delivery:
    """The delivery after a try; ``jitter`` in 0..1 lengthens the pause by up to ``JITTER``."""
    attempts = delivery.attempts + 1
    if answer.taken:
        return replace(
            delivery,
            state=DeliveryState.DELIVERED,
            attempts=attempts,
            next_at=None,
            delivered_at=now,
            last_error=None,
        )
    error = answer.error or f"HTTP {answer.status}"
    if answer.final or attempts > len(BACKOFF_S):
        return replace(delivery, state=DeliveryState.DEAD, attempts=attempts, next_at=None, last_error=error)
    pause = BACKOFF_S[attempts - 1] * (1 + JITTER * jitter)
    if answer.retry_after_s is not None:
        pause = max(pause, min(answer.retry_after_s, MAX_RETRY_AFTER_S))
    return replace(delivery, attempts=attempts, next_at=now + pause, last_error=error)


def again(delivery: Delivery, target: str, now: float) -> Delivery:
    """The same content once more, with a fresh schedule."""
    return replace(
        delivery,
        target=target,
        state=DeliveryState.PENDING,
        attempts=0,
        next_at=now,
        delivered_at=None,
        last_error=None,
    )
