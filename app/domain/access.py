"""Who calls, and what they may do.

A client is a name; keys belong to clients. What a client submitted is its own: others see it only with ``read:all``.
A key is ``bl_<id>_<secret>``. Only the secret's SHA-256 is kept, which is enough because the secret is random and long.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

MAX_WEIGHT = 100
SECRET_BYTES = 32
_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_TOKEN = re.compile(r"bl_(?P<id>[a-z0-9]{8})_(?P<secret>[A-Za-z0-9_-]{43})")


class Scope(StrEnum):
    """``submit`` queues, cancels and sends again; ``read`` looks at what is one's own; ``admin`` is everything."""

    SUBMIT = "submit"
    READ = "read"
    READ_ALL = "read:all"
    ADMIN = "admin"


_IMPLIED = {
    Scope.SUBMIT: frozenset({Scope.SUBMIT}),
    Scope.READ: frozenset({Scope.READ}),
    Scope.READ_ALL: frozenset({Scope.READ, Scope.READ_ALL}),
    Scope.ADMIN: frozenset(Scope),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Whose a job is. ``weight`` is its share of a busy lane beside others.

    ``max_queued`` (jobs) and ``per_minute`` (accepted jobs in any minute) bound it below the service's own bounds.
    """

    name: str
    weight: int = 1
    max_queued: int | None = None
    per_minute: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """A client with what this call may do. ``by`` is what it showed: ``key``, ``session``, ``network``, ``nothing``."""

    client: Client
    scopes: frozenset[Scope]
    by: str = "nothing"

    def may(self, scope: Scope) -> bool:
        return any(scope in _IMPLIED[held] for held in self.scopes)

    @property
    def sees_only(self) -> str | None:
        """The one owner whose jobs this caller may list, None for all."""
        return None if self.may(Scope.READ_ALL) else self.client.name

    def sees(self, owner: str) -> bool:
        """Whether a job of that client may be shown to this caller."""
        return self.may(Scope.READ_ALL) or (self.may(Scope.READ) and owner == self.client.name)


# Whoever calls a service that needs no key: it is reachable for those alone who may do everything.
LOCAL = Caller(client=Client(name="local"), scopes=frozenset(Scope))
# Callers of the system that Bitlane replaces know no keys; they are one client, told by the network that they are in.
LEGACY = Caller(client=Client(name="legacy"), scopes=frozenset({Scope.SUBMIT, Scope.READ}), by="network")
NOBODY = Caller(client=Client(name="nobody"), scopes=frozenset())


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A key as it is kept: without its secret. Times are seconds since the epoch, UTC."""

    id: str
    client: Client
    scopes: frozenset[Scope]
    sha256: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def refusal(self, now: float) -> str | None:
        """Why the key is not taken any more, None if it is."""
        if self.revoked_at is not None:
            return "this key was revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "this key has expired"
        return None

    @property
    def caller(self) -> Caller:
        return Caller(client=self.client, scopes=self.scopes, by="key")


def split(token: str) -> tuple[str, str] | None:
    """A key's id and the SHA-256 of its secret; None for what is not a key."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match["id"], _digest(match["secret"]))


def matches(key: ApiKey, sha256: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(key.sha256, sha256)


def new_key(
    client: Client,
    scopes: frozenset[Scope],
    *,
    now: float,
    expires_at: float | None = None,
    randomness: Callable[[int], bytes],
) -> tuple[ApiKey, str]:
    """A key to keep, and the token to hand out: nobody can make the token from the key again."""
    key_id = "".join(_ID_ALPHABET[byte % len(_ID_ALPHABET)] for byte in randomness(8))
    secret = urlsafe_b64encode(randomness(SECRET_BYTES)).decode().rstrip("=")
    key = ApiKey(id=key_id, client=client, scopes=scopes, sha256=_digest(secret), created_at=now, expires_at=expires_at)
    return key, f"bl_{key_id}_{secret}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
