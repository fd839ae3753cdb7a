"""PSNR per plane, their 6:1:1 combination, and over R, G, B together.

Per frame ``10 log10(peak^2 / MSE)``. ``psnr_*`` is the mean over frames in dB, ``apsnr_*`` is pooled: the PSNR of the
mean MSE. ``*_yuv`` is (6 Y + U + V) / 8 in dB, as JCT-VC's and JVET's common test conditions report it.

Identical planes have no PSNR. If single frames of a plane are identical, its mean over frames is the pooled value; if
all are, it has none, and ``*_yuv`` weighs the other planes alone; ``*_yuv`` is missing only where Y is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.evaluator.frames import Plane
from app.evaluator.kernels import kernel
from app.evaluator.metrics.base import FramePair, Scores

WEIGHTS = {"y": 6, "u": 1, "v": 1}
IDENTICAL = "identical in every frame"


def psnr_db(mse: float, peak: int) -> float:
    """PSNR in dB for an MSE above 0."""
    return 10 * math.log10(peak * peak / mse)


def combine(planes: Mapping[str, float]) -> float | None:
    """(6 Y + U + V) / 8; planes that are missing leave their weight to the others, and None without Y."""
    if "y" not in planes:
        return None
    weight = sum(WEIGHTS[plane] for plane in planes)
    return math.fsum(WEIGHTS[plane] * value for plane, value in planes.items()) / weight


class Psnr:
    """The metric ``psnr``."""

    def __init__(self, peak: int) -> None:
        self._peak = peak
        self._mse: dict[str, list[float]] = {"y": [], "u": [], "v": [], "rgb": []}

    def add(self, pair: FramePair) -> None:
        source, decoded = pair.yuv
        for index, plane in enumerate(WEIGHTS):
            self._mse[plane].append(_mse(source[index : index + 1], decoded[index : index + 1]))
        self._mse["rgb"].append(_mse(*pair.rgb))

    def result(self) -> Scores:
        means: dict[str, float] = {}
        pooled: dict[str, float] = {}
        identical: dict[str, int] = {}
        for plane, series in self._mse.items():
            if not any(series):
                continue
            pooled[plane] = psnr_db(math.fsum(series) / len(series), self._peak)
            if equal := series.count(0.0):
                identical[f"psnr_{plane}"] = equal
                means[plane] = pooled[plane]
            else:
                means[plane] = math.fsum(psnr_db(mse, self._peak) for mse in series) / len(series)
        return Scores(
            metrics=_named("psnr", means) | _named("apsnr", pooled),
            missing=_missing(means),
            worst_frame=self._worst(),
            identical_frames=identical,
        )

    def _worst(self) -> dict[str, float]:
        worst = {
            f"psnr_{plane}": psnr_db(max(series), self._peak) for plane, series in self._mse.items() if any(series)
        }
        combined = [self._frame_yuv(index) for index in range(len(self._mse["y"]))]
        if there := [value for value in combined if value is not None]:
            worst["psnr_yuv"] = min(there)
        return worst

    def _frame_yuv(self, index: int) -> float | None:
        planes = {plane: self._mse[plane][index] for plane in WEIGHTS}
        return combine({plane: psnr_db(mse, self._peak) for plane, mse in planes.items() if mse})


def _named(prefix: str, planes: dict[str, float]) -> dict[str, float]:
    named = {f"{prefix}_{plane}": value for plane, value in planes.items()}
    combined = combine({plane: planes[plane] for plane in WEIGHTS if plane in planes})
    return named if combined is None else named | {f"{prefix}_yuv": combined}


def _missing(means: Mapping[str, float]) -> dict[str, str]:
    missing: dict[str, str] = {}
    for plane in (*WEIGHTS, "rgb"):
        if plane not in means:
            missing |= {f"psnr_{plane}": IDENTICAL, f"apsnr_{plane}": IDENTICAL}
    if "y" not in means:
        missing |= dict.fromkeys(("psnr_yuv", "apsnr_yuv"), "Y is " + IDENTICAL)
    return missing


def _mse(source: Sequence[Plane], decoded: Sequence[Plane]) -> float:
    """Over all samples of the given planes together."""
    squares = [int(_squared_error(a, b)) for a, b in zip(source, decoded, strict=True)]
    return sum(squares) / sum(int(plane.size) for plane in source)


@kernel()
def _squared_error(a, b):  # type: ignore[no-untyped-def]  # numba's to find
    total = 0
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            difference = int(a[i, j]) - int(b[i, j])
            total += difference * difference
    return total
