"""What a metric gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias

from app.evaluator.colour import convert
from app.evaluator.frames import Format, Picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """``metrics`` holds numbers only; a metric without a number is a key of ``missing``, with the reason.

    ``worst_frame`` is the lowest value of a single frame. ``identical_frames`` counts, for a plane of which some frames
    are identical, how many are: its mean is then the pooled value.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    worst_frame: dict[str, float] = field(default_factory=dict)
    identical_frames: dict[str, int] = field(default_factory=dict)

    def __or__(self, other: Scores) -> Scores:
        return Scores(
            metrics=self.metrics | other.metrics,
            missing=self.missing | other.missing,
            worst_frame=self.worst_frame | other.worst_frame,
            identical_frames=self.identical_frames | other.identical_frames,
        )


class FramePair:
    """One frame of the source and the same frame decoded, in the clip's native format and in the codec's.

    ``yuv`` and ``rgb`` are (source, decoded). Neither side is converted where it is in that family already: the native
    planes are the Y, U, V of a YUV clip, the codec's planes are the R, G, B of an RGB codec. What is converted is
    converted alike on both sides. Y, U, V of an RGB clip are 4:4:4.
    """

    def __init__(
        self,
        native: tuple[Picture, Picture],
        native_format: Format,
        coded: tuple[Picture, Picture],
        coded_format: Format,
    ) -> None:
        self._native, self._native_format = native, native_format
        self._coded, self._coded_format = coded, coded_format

    @cached_property
    def yuv(self) -> tuple[Picture, Picture]:
        if not self._native_format.rgb:
            return self._native
        return self._both(self._native, self._native_format, rgb=False)

    @cached_property
    def rgb(self) -> tuple[Picture, Picture]:
        if self._native_format.rgb:
            return self._native
        if self._coded_format.rgb:
            return self._coded
        return self._both(self._native, self._native_format, rgb=True)

    @staticmethod
    def _both(pair: tuple[Picture, Picture], own: Format, *, rgb: bool) -> tuple[Picture, Picture]:
        target = Format(
            rgb=rgb, subsampled=False, bit_depth=own.bit_depth, matrix=own.matrix, full_range=own.full_range
        )
        return convert(pair[0], own, target), convert(pair[1], own, target)


class Metric(Protocol):
    """Frames go in one by one, in order, so that no clip is held twice."""

    def add(self, pair: FramePair) -> None: ...

    def result(self) -> Scores:
        """The scores of all frames that were added, at least one."""


MetricFactory: TypeAlias = Callable[[int], Metric]
"""Makes a metric for one clip from the peak of its samples, 255 * 2^(bit_depth - 8)."""
