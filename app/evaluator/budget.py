"""What is left of a job's time, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from app.domain.errors import SubmissionError
from app.domain.job import ErrorType, Fault, Limits, Stage
from app.evaluator.codec import Decoded, Encoded

T = TypeVar("T", Encoded, Decoded)


class Budget:
    """Bounds each call by ``wall_s``, and all of them together by ``job_s``.

    What is charged is what the codec says that it took: starting a jail or its device is ours and costs no job
    anything.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._used_s = 0.0

    def call(self, stage: Stage, do: Callable[[float], T]) -> T:
        """``do(wall_s)``. Raises ``SubmissionError`` with ``wall_time_limit`` once ``job_s`` is used up."""
        left_s = self._limits.job_s - self._used_s
        if left_s <= 0:
            raise SubmissionError(self._used_up(Fault(error_type=ErrorType.WALL_TIME_LIMIT, message="", stage=stage)))
        try:
            done = do(min(self._limits.wall_s, left_s))
        except SubmissionError as error:
            fault, limit = error.fault, error.fault.limit
            shorter = limit is not None and limit < left_s  # a call has shorter limits of its own
            if fault.error_type is not ErrorType.WALL_TIME_LIMIT or left_s >= self._limits.wall_s or shorter:
                raise
            # What a call that ran out of time used counts from when its code was there, too.
            used_s = self._used_s + (fault.used or 0.0)
            raise SubmissionError(self._used_up(replace(fault, used=used_s))) from error
        self._used_s += done.charged_s
        return done

    def _used_up(self, fault: Fault) -> Fault:
        job_s = self._limits.job_s
        used_s = self._used_s if fault.used is None else fault.used
        message = f"all encode and decode calls of the job together took {used_s:.1f} s, job_s allows {job_s:g} s"
        return replace(fault, message=message, limit=job_s, used=used_s)


class Eta:
    """Expects every point to take as long per pixel as those before it did.

    ``work`` is the pixels of each point, in order.
    """

    def __init__(self, work: Sequence[int], clock: Callable[[], float]) -> None:
        self._work = work
        self._clock = clock
        self._begun = clock()
        self._points = 0
        self._spent_s = 0.0

    def point_done(self) -> None:
        """A point has been encoded, decoded and measured."""
        self._points += 1
        self._spent_s = self._clock() - self._begun

    def left_s(self) -> float | None:
        """Seconds until the last point is measured; None before the first one is."""
        behind = sum(self._work[: self._points])
        if not behind:
            return None
        expected_s = self._spent_s * sum(self._work) / behind
        return max(0.0, expected_s - (self._clock() - self._begun))
