"""Rate-distortion curves compared: Bjøntegaard delta rate (BD-rate), or why there is none.

Source: G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001, with the piecewise
cubic Hermite interpolation (PCHIP, Fritsch-Carlson) of JCTVC-E137 in the place of the one cubic, which can run wild
between points. The logarithm of the rate is interpolated over the quality and integrated exactly over the qualities
that both curves reach.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import PchipInterpolator

MIN_POINTS = 4
LOW_OVERLAP = 0.75

TOO_FEW_POINTS = "too_few_points"
NOT_MONOTONE = "not_monotone"
NO_OVERLAP = "no_overlap"
LOW_OVERLAP_WARNING = "low_overlap"

# (rate, quality): the rate in any unit above 0, the quality in any scale where more is better.
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BDRate:
    """How much more rate the tested curve needs than the anchor for the same quality, in percent: below 0 is better.

    ``percent`` is None exactly where ``refused`` says why. ``overlap`` is the intersection of the two ranges of quality
    over their union, in 0..1.
    """

    percent: float | None = None
    overlap: float = 0.0
    refused: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanBDRate:
    """The mean over the clips that have a value, never the BD-rate of averaged curves; ``overlap`` is the smallest."""

    percent: float | None = None
    per_clip: dict[str, float] = field(default_factory=dict)
    overlap: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)


def bd_rate(anchor: Curve, tested: Curve) -> BDRate:
    """Each curve needs at least four points whose quality grows strictly with the rate; their order does not matter."""
    if min(len(anchor), len(tested)) < MIN_POINTS:
        return BDRate(refused=TOO_FEW_POINTS)
    curves = [sorted(curve) for curve in (anchor, tested)]
    if not all(map(_monotone, curves)):
        return BDRate(refused=NOT_MONOTONE)
    lows, highs = ([curve[end][1] for curve in curves] for end in (0, -1))
    low, high = max(lows), min(highs)
    if low >= high:
        return BDRate(refused=NO_OVERLAP)
    overlap = (high - low) / (max(highs) - min(lows))
    areas = [_log_rate(curve).integrate(low, high) for curve in curves]
    percent = math.expm1(float(areas[1] - areas[0]) / (high - low)) * 100
    return BDRate(percent=percent, overlap=overlap, warnings=(LOW_OVERLAP_WARNING,) if overlap < LOW_OVERLAP else ())


def mean_bd_rate(anchors: Mapping[str, Curve], tested: Mapping[str, Curve]) -> MeanBDRate:
    """Clip by clip, over the clips that both have."""
    found = {clip: bd_rate(anchors[clip], tested[clip]) for clip in tested if clip in anchors}
    per_clip = {clip: result.percent for clip, result in found.items() if result.percent is not None}
    return MeanBDRate(
        percent=sum(per_clip.values()) / len(per_clip) if per_clip else None,
        per_clip=per_clip,
        overlap=min((found[clip].overlap for clip in per_clip), default=0.0),
        refused={clip: result.refused for clip, result in found.items() if result.refused is not None},
        warnings={clip: result.warnings for clip, result in found.items() if result.warnings},
    )


def _monotone(curve: Curve) -> bool:
    """Whether every number is finite, every rate above 0, and more rate always gives more quality."""
    if not all(math.isfinite(rate) and math.isfinite(quality) and rate > 0 for rate, quality in curve):
        return False
    return all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(curve))


def _log_rate(curve: Curve) -> PchipInterpolator:
    rates, qualities = np.array(curve, dtype=np.float64).T
    return PchipInterpolator(qualities, np.log(rates))
