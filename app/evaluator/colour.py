"""YUV to RGB and back by a stated matrix and range, chroma up by replication and down by the mean of 2x2.

The definition is real arithmetic rounded once, half up, and clipped to the range of the samples: ITU-R BT.601-7,
BT.709-6 and BT.2020-2 (non-constant luminance), limited or full range. Chroma samples that have no 2x2 block at an odd
edge are the mean of the samples that are there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.evaluator.frames import Format, Picture, Plane, box2, flat_picture, read_only
from app.evaluator.kernels import kernel

KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
UP_FILTER = "replicate"
DOWN_FILTER = "box"


def yuv_from_rgb(colour: Format) -> npt.NDArray[np.float64]:
    """[3, 4]: code values of Y, U, V are the first three columns times R, G, B plus the last column."""
    kr, kb = KR_KB[colour.matrix]
    luma = np.array([kr, 1 - kr - kb, kb])
    rows = np.array([luma, (np.eye(3)[2] - luma) / (2 * (1 - kb)), (np.eye(3)[0] - luma) / (2 * (1 - kr))])
    step = 1 << (colour.bit_depth - 8)
    top = (256 * step) - 1
    middle = 128 * step
    scale = np.array([top] * 3 if colour.full_range else [219 * step, 224 * step, 224 * step]) / top
    offset = [0 if colour.full_range else 16 * step, middle, middle]
    return np.column_stack([rows * scale[:, None], offset])


def rgb_from_yuv(colour: Format) -> npt.NDArray[np.float64]:
    """[3, 4]: the inverse of ``yuv_from_rgb``."""
    forward = yuv_from_rgb(colour)
    inverse = np.linalg.inv(forward[:, :3])
    return np.column_stack([inverse, -inverse @ forward[:, 3]])


class Converter:
    """Turns pictures of one size from ``source`` to ``target``; both share depth, matrix and range.

    It owns the memory of its result, which the next call overwrites: fresh memory costs as much as the arithmetic.
    """

    def __init__(self, source: Format, target: Format, height: int, width: int) -> None:
        self._source, self._target = source, target
        self._same = source.rgb == target.rgb and source.subsampled == target.subsampled
        self._room = None if self._same else flat_picture(target, height, width)
        self._top = float((1 << source.bit_depth) - 1)
        self._to_rgb, self._to_yuv = rgb_from_yuv(source), yuv_from_rgb(source)

    def __call__(self, picture: Picture) -> Picture:
        """The picture in the target's format, read-only; the same arrays where nothing changes."""
        if self._room is None:
            return picture
        if self._source.rgb == self._target.rgb:
            resample = box2 if self._target.subsampled else self._double
            return read_only((picture[0], resample(picture[1]), resample(picture[2])))
        if self._target.rgb:
            _yuv_to_rgb(*picture, self._to_rgb, int(self._source.subsampled), self._top, *self._room)
        else:
            _rgb_to_yuv(*picture, self._to_yuv, 1 + self._target.subsampled, self._top, *self._room)
        return read_only(self._room)

    def _double(self, plane: Plane) -> Plane:
        assert self._room is not None
        height, width = self._room[1].shape
        return np.repeat(np.repeat(plane, 2, axis=0), 2, axis=1)[:height, :width]


# Only what says that there is no NaN and no infinity: results stay those of the written arithmetic.
_FINITE = {"nnan", "ninf", "nsz"}


@kernel(fastmath=_FINITE)
def _clipped(value, top):  # type: ignore[no-untyped-def]  # numba's to find
    value = value if value > 0.0 else 0.0
    return np.int32(value if value < top else top)


@kernel(fastmath=_FINITE)
def _replicated(u, v, by_u, by_v, offset, shift, out):  # type: ignore[no-untyped-def]  # numba's to find
    """A row of chroma's share in one colour, brought to luma's width."""
    width = out.shape[0]
    if shift == 0:
        for j in range(width):
            out[j] = by_u * u[j] + by_v * v[j] + offset
        return
    for j in range(width // 2):
        share = by_u * u[j] + by_v * v[j] + offset
        out[2 * j] = share
        out[2 * j + 1] = share
    if width % 2:
        out[width - 1] = by_u * u[width // 2] + by_v * v[width // 2] + offset


@kernel(fastmath=_FINITE)
def _yuv_to_rgb(y, u, v, m, shift, top, r, g, b):  # type: ignore[no-untyped-def]  # numba's to find
    height, width = y.shape
    share = np.empty((3, width))
    for i in range(height):
        if i & shift == 0:
            for k in range(3):
                _replicated(u[i >> shift], v[i >> shift], m[k, 1], m[k, 2], m[k, 3] + 0.5, shift, share[k])
        _with_luma(y[i], m[0, 0], share[0], top, r[i])
        _with_luma(y[i], m[1, 0], share[1], top, g[i])
        _with_luma(y[i], m[2, 0], share[2], top, b[i])


@kernel(fastmath=_FINITE)
def _with_luma(y, by_y, share, top, out):  # type: ignore[no-untyped-def]  # numba's to find
    for j in range(y.shape[0]):
        out[j] = _clipped(by_y * y[j] + share[j], top)


@kernel(fastmath=_FINITE)
def _mixed(r, g, b, row, top, out):  # type: ignore[no-untyped-def]  # numba's to find
    by_r, by_g, by_b, offset = row[0], row[1], row[2], row[3] + 0.5
    for j in range(out.shape[0]):
        out[j] = _clipped(by_r * r[j] + by_g * g[j] + by_b * b[j] + offset, top)


@kernel(fastmath=_FINITE)
def _halved(upper, lower, out):  # type: ignore[no-untyped-def]  # numba's to find
    """The mean of each 2x2 block of two rows, not rounded; at an odd edge of the samples that are there."""
    width = upper.shape[0]
    for j in range(width // 2):
        total = (
            np.int32(upper[2 * j]) + np.int32(upper[2 * j + 1]) + np.int32(lower[2 * j]) + np.int32(lower[2 * j + 1])
        )
        out[j] = 0.25 * total
    if width % 2:
        out[width // 2] = 0.5 * (np.int32(upper[width - 1]) + np.int32(lower[width - 1]))


@kernel(fastmath=_FINITE)
def _rgb_to_yuv(r, g, b, m, step, top, y, u, v):  # type: ignore[no-untyped-def]  # numba's to find
    height = r.shape[0]
    for i in range(height):
        _mixed(r[i], g[i], b[i], m[0], top, y[i])
    if step == 1:
        for i in range(height):
            _mixed(r[i], g[i], b[i], m[1], top, u[i])
            _mixed(r[i], g[i], b[i], m[2], top, v[i])
        return
    mean = np.empty((3, u.shape[1]))
    for i in range(u.shape[0]):
        last = min(2 * i + 1, height - 1)
        _halved(r[2 * i], r[last], mean[0])
        _halved(g[2 * i], g[last], mean[1])
        _halved(b[2 * i], b[last], mean[2])
        _mixed(mean[0], mean[1], mean[2], m[1], top, u[i])
        _mixed(mean[0], mean[1], mean[2], m[2], top, v[i])
