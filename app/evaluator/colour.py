"""YUV to RGB and back by a stated matrix and range, chroma up by replication and down by the mean of 2x2.

The definition is real arithmetic rounded once, half up, and clipped to the range of the samples: ITU-R BT.601-7,
BT.709-6 and BT.2020-2 (non-constant luminance), limited or full range. Chroma samples that have no 2x2 block at an odd
edge are the mean of the samples that are there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.evaluator.frames import Format, Picture, Plane, box2, empty_picture, read_only
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


def convert(picture: Picture, source: Format, target: Format) -> Picture:
    """The picture in the target's format; the same arrays where nothing changes. Both share depth, matrix and range."""
    if source.rgb == target.rgb and source.subsampled == target.subsampled:
        return picture
    height, width = picture[0].shape
    if source.rgb == target.rgb:
        resample = _halve if target.subsampled else _double
        return picture[0], *(resample(plane, (height, width)) for plane in picture[1:])  # type: ignore[return-value]
    out = empty_picture(target, height, width)
    top = float((1 << source.bit_depth) - 1)
    if target.rgb:
        _to_rgb(*picture, rgb_from_yuv(source), int(source.subsampled), top, *out)
    else:
        _to_yuv(*picture, yuv_from_rgb(source), 1 + target.subsampled, top, *out)
    return read_only(out)


def _double(plane: Plane, shape: tuple[int, int]) -> Plane:
    return np.repeat(np.repeat(plane, 2, axis=0), 2, axis=1)[: shape[0], : shape[1]]


def _halve(plane: Plane, shape: tuple[int, int]) -> Plane:
    return box2(plane)


@kernel()
def _to_rgb(y, u, v, m, shift, top, r, g, b):  # type: ignore[no-untyped-def]
    height, width = y.shape
    red, green, blue = np.empty(width), np.empty(width), np.empty(width)
    for i in range(height):
        if i & shift == 0:
            for j in range(width):
                cu, cv = float(u[i >> shift, j >> shift]), float(v[i >> shift, j >> shift])
                red[j] = m[0, 1] * cu + m[0, 2] * cv + m[0, 3] + 0.5
                green[j] = m[1, 1] * cu + m[1, 2] * cv + m[1, 3] + 0.5
                blue[j] = m[2, 1] * cu + m[2, 2] * cv + m[2, 3] + 0.5
        for j in range(width):
            r[i, j] = np.int32(min(max(m[0, 0] * y[i, j] + red[j], 0.0), top))
            g[i, j] = np.int32(min(max(m[1, 0] * y[i, j] + green[j], 0.0), top))
            b[i, j] = np.int32(min(max(m[2, 0] * y[i, j] + blue[j], 0.0), top))


@kernel()
def _to_yuv(r, g, b, m, step, top, y, u, v):  # type: ignore[no-untyped-def]
    height, width = r.shape
    for i in range(height):
        for j in range(width):
            luma = m[0, 0] * r[i, j] + m[0, 1] * g[i, j] + m[0, 2] * b[i, j] + m[0, 3] + 0.5
            y[i, j] = np.int32(min(max(luma, 0.0), top))
    for i in range(u.shape[0]):
        i0 = i * step
        i1 = min(i0 + step - 1, height - 1)
        for j in range(u.shape[1]):
            j0 = j * step
            j1 = min(j0 + step - 1, width - 1)
            red = 0.25 * (float(r[i0, j0]) + r[i0, j1] + r[i1, j0] + r[i1, j1])
            green = 0.25 * (float(g[i0, j0]) + g[i0, j1] + g[i1, j0] + g[i1, j1])
            blue = 0.25 * (float(b[i0, j0]) + b[i0, j1] + b[i1, j0] + b[i1, j1])
            cu = m[1, 0] * red + m[1, 1] * green + m[1, 2] * blue + m[1, 3] + 0.5
            cv = m[2, 0] * red + m[2, 1] * green + m[2, 2] * blue + m[2, 3] + 0.5
            u[i, j] = np.int32(min(max(cu, 0.0), top))
            v[i, j] = np.int32(min(max(cv, 0.0), top))
