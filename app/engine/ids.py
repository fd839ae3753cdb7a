"""Job ids: ULIDs that never go backwards, so that ids sort as the jobs were accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80


class Ids:
    """48 bits of milliseconds and 80 random bits, in Crockford's base 32; within a millisecond the last id plus one."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._last = 0

    def new(self, now: float) -> str:
        fresh = int(now * 1000) << _RANDOM_BITS | int.from_bytes(self._entropy(10), "big")
        self._last = fresh if fresh >> _RANDOM_BITS > self._last >> _RANDOM_BITS else self._last + 1
        return "".join(_ALPHABET[self._last >> shift & 31] for shift in range(125, -1, -5))

    def of_key(self, client: str, key: str) -> str:
        """The id of the job that a client's Idempotency-Key stands for: always the same."""
        return "ik-" + hashlib.sha256(f"{client}\n{key}".encode()).hexdigest()[:40]
