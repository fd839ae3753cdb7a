"""A decoded clip against its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from app.evaluator.clips.source import OpenClip
from app.evaluator.codec import Geometry, Layout
from app.evaluator.colour import DOWN_FILTER, UP_FILTER, Converter
from app.evaluator.frames import Format, flat_picture, picture_of, planes_of, read_only
from app.evaluator.metrics import COMPILED, load
from app.evaluator.metrics.base import Pairing, Scores

# Large enough for every metric.
WARM_UP_SIDE = 176


def measure(opened: OpenClip, decoded: npt.NDArray[np.uint8], metrics: Sequence[str]) -> Scores:
    """The metrics of decoded frames, flat bytes in the codec's layout, in the clip's native format.

    Where the codec works in another format its frames are converted back first.
    """
    geometry = opened.buffer.geometry
    source_planes, decoded_planes = opened.buffer.planes, planes_of(decoded, geometry)
    running = [load(name)(opened.native.peak) for name in metrics]
    pairing = Pairing(opened.native, opened.coded, geometry.height, geometry.width)
    for index in range(geometry.frames):
        pair = pairing.pair(
            picture_of(opened.planes, index), picture_of(source_planes, index), picture_of(decoded_planes, index)
        )
        for metric in running:
            metric.add(pair)
    scores = Scores()
    for metric in running:
        scores |= metric.result()
    return scores


def ceiling(opened: OpenClip, metrics: Sequence[str]) -> dict[str, float]:
    """What a lossless codec would score: the cost of the conversion alone, nothing where there is none."""
    if opened.native == opened.coded:
        return {}
    key = tuple(metrics)
    if key not in opened.ceilings:
        opened.ceilings[key] = measure(opened, opened.buffer.array, metrics).metrics
    return opened.ceilings[key]


def highest_sample(decoded: npt.NDArray[np.uint8], geometry: Geometry) -> int:
    """The largest sample value; one above ``2^bit_depth - 1`` is no sample of that depth."""
    return int(decoded.max() if geometry.bit_depth <= 8 else decoded.view("<u2").max())


def describe_conversion(opened: OpenClip, layout: Layout) -> dict[str, str]:
    """How the clip's frames became the codec's, and back, for the report's provenance."""
    native = opened.native
    stated = {
        "clip": opened.clip.pix_fmt,
        "codec": layout.value,
        "matrix": native.matrix,
        "range": "full" if native.full_range else "limited",
    }
    if opened.native.rgb != opened.coded.rgb or opened.native.subsampled != opened.coded.subsampled:
        stated |= {"chroma_up": UP_FILTER, "chroma_down": DOWN_FILTER}
    return stated


def warm_up() -> None:
    """Compile or load every kernel that an 8-bit 4:2:0 clip needs, so that no job waits for it."""
    yuv = Format(rgb=False, subsampled=True, bit_depth=8, matrix="bt709", full_range=False)
    black, grey = (read_only(flat_picture(yuv, WARM_UP_SIDE, WARM_UP_SIDE, fill)) for fill in (16, 128))
    for coded in (yuv, replace(yuv, rgb=True, subsampled=False)):
        source, decoded = (Converter(yuv, coded, WARM_UP_SIDE, WARM_UP_SIDE)(picture) for picture in (black, grey))
        pair = Pairing(yuv, coded, WARM_UP_SIDE, WARM_UP_SIDE).pair(black, source, decoded)
        for name in COMPILED:
            metric = load(name)(yuv.peak)
            metric.add(pair)
            metric.result()
