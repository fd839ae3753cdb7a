"""How many jobs may wait: in all, for a lane, of a client; and how many a client may bring in a minute."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.domain.access import Client
from app.domain.errors import QueueFull
from app.engine.board import Board
from app.ports import Clock

# Until a lane has run something nobody knows how fast it is.
UNKNOWN_S = 30.0
LEAST_S, MOST_S = 1.0, 3600.0
MINUTE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Jobs that may wait at once; a key may set tighter ones for its client."""

    queued: int = 250_000
    per_lane: int = 250_000
    per_client: int = 100_000


class Admission:
    """Counts what waits and what is on its way into the queue, so that many at once cannot pass a bound together."""

    def __init__(self, *, board: Board, clock: Clock, bounds: Bounds) -> None:
        self._board = board
        self._clock = clock
        self._bounds = bounds
        self._coming: Counter[tuple[str, frozenset[str]]] = Counter()
        # When the jobs of the last minute came, of clients for whom that is bounded.
        self._came: dict[str, deque[float]] = {}

    @property
    def full(self) -> bool:
        """Whether the next job is refused, whosever it is."""
        return self._board.queued + self._coming.total() >= self._bounds.queued

    @contextmanager
    def admit(self, client: Client, lanes: frozenset[str]) -> Iterator[None]:
        """Hold a place for a job while it is being added. Raises ``QueueFull`` with when to try again.

        A job that was not added in the end leaves no trace.
        """
        self._refuse_if_full(client, lanes)
        self._refuse_if_fast(client)
        now = self._clock.monotonic()
        came = self._came.setdefault(client.name, deque()) if client.per_minute is not None else deque[float]()
        came.append(now)
        self._coming[client.name, lanes] += 1
        try:
            yield
        except BaseException:
            came.remove(now)
            raise
        finally:
            self._coming[client.name, lanes] -= 1
            if not self._coming[client.name, lanes]:
                del self._coming[client.name, lanes]

    def _refuse_if_full(self, client: Client, lanes: frozenset[str]) -> None:
        bounds = self._bounds
        pause = self._board.one_leaves_s(lanes)
        if self.full:
            raise _refusal(f"the queue holds {bounds.queued} jobs, its bound", pause)
        if lanes and min(self._for_lane(lane) for lane in lanes) >= bounds.per_lane:
            names = " and ".join(sorted(lanes))
            raise _refusal(f"{bounds.per_lane} jobs wait for lane {names}, its bound", pause)
        most = min(bounds.per_client, client.max_queued or bounds.per_client)
        coming = sum(count for (name, _), count in self._coming.items() if name == client.name)
        if self._board.of_client(client.name) + coming >= most:
            rivals = max((self._board.waiting.clients(lane) for lane in lanes), default=1)
            turn = None if pause is None else pause * max(1, rivals)
            raise _refusal(f"{most} jobs of {client.name} wait, the bound for one client", turn)

    def _refuse_if_fast(self, client: Client) -> None:
        if client.per_minute is None:
            return
        now, came = self._clock.monotonic(), self._came.get(client.name, deque())
        while came and came[0] <= now - MINUTE_S:
            came.popleft()
        if len(came) >= client.per_minute:
            message = f"{client.name} may submit {client.per_minute} jobs a minute"
            raise QueueFull(message, retry_after_s=max(LEAST_S, came[0] + MINUTE_S - now))

    def _for_lane(self, lane: str) -> int:
        coming = sum(count for (_, lanes), count in self._coming.items() if lane in lanes)
        return self._board.waiting.depth(lane) + coming


def _refusal(message: str, pause_s: float | None) -> QueueFull:
    return QueueFull(message, retry_after_s=UNKNOWN_S if pause_s is None else min(max(pause_s, LEAST_S), MOST_S))
