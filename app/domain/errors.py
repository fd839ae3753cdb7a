"""Every exception that Bitlane raises on purpose.

BitlaneError
+-- RequestError                whose fault: the caller's
|   +-- InvalidSpec             a field is missing, unknown or wrong        422
|   +-- NotFound                no such job, suite, lane ...               404
|   +-- Conflict                the id or the experiment is taken          409
|   +-- AlreadyEnded            the job is terminal, it cannot be cancelled 409
|   |   +-- StillInFlight       the same request is being answered         409
|   +-- KeyReused               the Idempotency-Key was for another body   422
|   +-- QueueFull               a bound on jobs is reached                 429
|   +-- Unauthenticated         nobody knows who calls                     401
|   +-- Forbidden               the caller may not do this                 403
+-- SubmissionError             whose fault: the submission's (code or limit)
+-- PlatformError               whose fault: ours, or of what we depend on
    +-- WorkerLost              an evaluator, a zygote or a jail died under us
    +-- ClipUnusable            a clip is missing, corrupt or not what its manifest says
    +-- StoreUnavailable        the store does not answer                  503
    |   +-- StoreAway           ... for now: it may be back without anybody's doing
    |   +-- DiskFull            the disk under the data folder has no room 507
    +-- StaleVersion            somebody else committed first: load and decide again
    +-- StoreHeld               another service holds the store
    +-- Draining                the service is stopping                    503
    +-- JailTooWeak             the machine's jail is below the minimum    503
    +-- OpenDoor                the settings would let strangers run code
    +-- IllegalTransition       an event that the state machine does not know: a bug
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.job import Fault


class BitlaneError(Exception):
    """The root. ``str(error)`` is one sentence that can be shown to the caller."""


class RequestError(BitlaneError):
    """What the caller asked for cannot be done as asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldError:
    """One wrong field: ``field`` is its path in the body (``rate_points.2``), ``line``, ``column`` are in the code."""

    field: str
    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = "" if self.line is None else f" (line {self.line}, column {self.column})"
        return f"{self.field}: {self.message}{where}"


class InvalidSpec(RequestError):
    """At least one field is wrong; ``errors`` names each."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(map(str, self.errors)))


class NotFound(RequestError):
    """Nothing has that name."""


class Conflict(RequestError):
    """The id or the experiment belongs to another job."""


class StillInFlight(Conflict):
    """The first request with this key has not been answered yet."""


class KeyReused(RequestError):
    """The Idempotency-Key belongs to another body."""


class Unauthenticated(RequestError):
    """No key was shown, or one that is not taken."""


class Forbidden(RequestError):
    """The caller is known and may not do this."""


class AlreadyEnded(RequestError):
    """The job is terminal. ``state`` says how it ended."""

    def __init__(self, job_id: str, state: str) -> None:
        self.state = state
        super().__init__(f"job {job_id} has already ended: {state}")


class QueueFull(RequestError):
    """A bound on jobs is reached (the queue's, a lane's, a client's); ``retry_after_s`` is when to ask again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class SubmissionError(BitlaneError):
    """The submission failed; ``fault`` is what its job will show."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.message)


class PlatformError(BitlaneError):
    """Something of ours failed. The submission is not to blame."""


class WorkerLost(PlatformError):
    """A process of ours died or broke its protocol while it held an attempt."""


class ClipUnusable(PlatformError):
    """A clip cannot be read, or is not what its manifest says."""


class StoreUnavailable(PlatformError):
    """The store does not answer; nothing was made durable."""


class StoreAway(StoreUnavailable):
    """The store cannot be reached or is overloaded; waiting may be all that it needs."""


class DiskFull(StoreUnavailable):
    """The disk lacks the room to make anything durable; all goes on once there is some."""


class StaleVersion(PlatformError):
    """The stored job is newer than the one that was to be committed."""


class StoreHeld(PlatformError):
    """Another service holds the store; the message says which."""


class Draining(PlatformError):
    """The service is stopping and takes no new jobs."""


class JailTooWeak(PlatformError):
    """This machine offers fewer layers of isolation than the operator demands; nothing is run."""


class OpenDoor(PlatformError):
    """As it is set up, the service would run the code of whoever reaches it; it does not start."""


class IllegalTransition(PlatformError):
    """An event that cannot happen in the job's state."""
