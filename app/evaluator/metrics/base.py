"""What a metric gets and gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, TypeAlias

from app.evaluator.colour import Converter
from app.evaluator.frames import Format, Picture, Plane


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


@dataclass(frozen=True, kw_only=True, slots=True)
class FramePair:
    """One frame of the source and the same frame decoded: ``yuv`` and ``rgb`` are (source, decoded).

    A metric must not keep them: the next frame may overwrite them.
    """

    yuv: tuple[Picture, Picture]
    rgb: tuple[Picture, Picture]


class Pairing:
    """Makes frame pairs from what the clip holds and what the codec gave.

    Neither side is converted where it is in the wanted family already: the native planes are the Y, U, V of a YUV clip,
    the codec's planes are the R, G, B of an RGB codec. What is converted is converted alike on both sides. Y, U, V of
    an RGB clip are 4:4:4. A codec that works in another format than the clip's has its frames converted back first.
    """

    def __init__(self, native: Format, coded: Format, height: int, width: int) -> None:
        self._native, self._coded = native, coded
        other = replace(native, rgb=not native.rgb, subsampled=False)
        self._back = Converter(coded, native, height, width)
        self._source, self._decoded = (Converter(native, other, height, width) for _ in range(2))

    def pair(self, native: Picture, source: Picture, decoded: Picture) -> FramePair:
        """``native`` is the clip's frame, ``source`` the same in the codec's format, ``decoded`` what came back."""
        own = (native, self._back(decoded))
        if self._native.rgb:
            return FramePair(yuv=self._both(own), rgb=own)
        return FramePair(yuv=own, rgb=(source, decoded) if self._coded.rgb else self._both(own))

    def _both(self, own: tuple[Picture, Picture]) -> tuple[Picture, Picture]:
        return self._source(own[0]), self._decoded(own[1])


class Metric(Protocol):
    """Frames go in one by one, in order, so that no clip is held twice."""

    def add(self, pair: FramePair) -> None: ...

    def result(self) -> Scores:
        """The scores of all frames that were added, at least one."""


class LumaMetric(ABC):
    """One number a frame, from the luma planes alone: the mean over frames, and the lowest.

    ``too_small`` says, after "frames of WxH", what is wrong with frames that have a side below ``min_side``.
    """

    name: ClassVar[str]
    min_side: ClassVar[int]
    too_small: ClassVar[str]

    def __init__(self, peak: int) -> None:
        self.peak = peak
        self._series: list[float] = []
        self._missing: str | None = None

    @abstractmethod
    def score(self, source: Plane, decoded: Plane) -> float:
        """The metric of two planes [H, W]."""

    def add(self, pair: FramePair) -> None:
        source, decoded = pair.yuv[0][0], pair.yuv[1][0]
        height, width = source.shape
        if min(height, width) < self.min_side:
            self._missing = f"frames of {width}x{height} {self.too_small}"
        else:
            self._series.append(self.score(source, decoded))

    def result(self) -> Scores:
        if self._missing is not None:
            return Scores(missing={self.name: self._missing})
        mean = math.fsum(self._series) / len(self._series)
        return Scores(metrics={self.name: mean}, worst_frame={self.name: min(self._series)})


MetricFactory: TypeAlias = Callable[[int], Metric]
"""Makes a metric for one clip from the peak of its samples, 255 * 2^(bit_depth - 8)."""
