"""Measuring a tiny clip once, so that the kernels are compiled or loaded before the first attempt."""

from __future__ import annotations

import numpy as np

from app.domain.evaluation import Clip
from app.evaluator.clips.source import OpenClip
from app.evaluator.codec import Geometry, Layout
from app.evaluator.frames import Planes, SealedFrames, coded_format, native_format
from app.evaluator.measure import measure
from app.evaluator.metrics import METRICS

_SIDE = 32


def warm_metrics() -> None:
    """Every metric, and the conversion between RGB and 8-bit 4:2:0."""
    clip = Clip(name="warm", file="", file_sha256="", sha256="", width=_SIDE, height=_SIDE, frames=1)
    native = native_format(clip)
    half = _SIDE // 2
    planes = (
        np.zeros((1, _SIDE, _SIDE), np.uint8),
        np.zeros((1, half, half), np.uint8),
        np.zeros((1, half, half), np.uint8),
    )
    geometry = Geometry(layout=Layout.RGB, frames=1, height=_SIDE, width=_SIDE, fps=clip.fps)
    opened = OpenClip(
        clip=clip,
        native=native,
        coded=coded_format(native, Layout.RGB),
        buffer=SealedFrames(geometry, _grey),
        planes=planes,
    )
    measure(opened, opened.buffer.array, list(METRICS))


def _grey(room: Planes) -> None:
    for plane in room:
        plane[...] = 128
