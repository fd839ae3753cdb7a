"""Conversions against their definition, written once more in float64 and without our matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.evaluator.colour import Converter, rgb_from_yuv, yuv_from_rgb
from app.evaluator.frames import box2, read_only
from tests.evaluator.pictures import RGB, YUV420, random_picture

COLOURS = [
    replace(YUV420, matrix=matrix, full_range=full, bit_depth=depth)
    for matrix in ("bt601", "bt709", "bt2020")
    for full in (False, True)
    for depth in (8, 10)
]
KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def rounded(values, depth):
    return np.clip(np.floor(np.asarray(values) + 0.5), 0, 2**depth - 1).astype(int)


def reference_rgb(y, u, v, colour):
    kr, kb = KR_KB[colour.matrix]
    kg = 1 - kr - kb
    step, top = 2 ** (colour.bit_depth - 8), 2**colour.bit_depth - 1
    if colour.full_range:
        luma, cb, cr = y / top, (u - 128 * step) / top, (v - 128 * step) / top
    else:
        luma, cb, cr = (y - 16 * step) / (219 * step), (u - 128 * step) / (224 * step), (v - 128 * step) / (224 * step)
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / kg
    return [top * channel for channel in (red, green, blue)]


def reference_yuv(r, g, b, colour):
    kr, kb = KR_KB[colour.matrix]
    step, top = 2 ** (colour.bit_depth - 8), 2**colour.bit_depth - 1
    red, green, blue = r / top, g / top, b / top
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    if colour.full_range:
        return [top * luma, top * cb + 128 * step, top * cr + 128 * step]
    return [219 * step * luma + 16 * step, 224 * step * cb + 128 * step, 224 * step * cr + 128 * step]


def assert_rounded(ours, exact, depth):
    """Equal to the rounded exact value; where that lies on the edge between two, either."""
    tie = np.abs(exact - np.floor(exact) - 0.5) < 1e-9
    wrong = np.abs(ours.astype(int) - rounded(exact, depth))
    assert wrong[~tie].max(initial=0) == 0
    assert wrong.max() <= 1


@pytest.mark.parametrize(
    "colour", COLOURS, ids=lambda c: f"{c.matrix}-{'full' if c.full_range else 'limited'}-{c.bit_depth}"
)
def test_both_ways_follow_the_definition_at_odd_sizes(colour):
    rgb = replace(colour, rgb=True, subsampled=False)
    height, width = 37, 51
    y, u, v = random_picture(colour, height, width)
    up = [np.repeat(np.repeat(plane, 2, 0), 2, 1)[:height, :width].astype(float) for plane in (u, v)]
    for ours, exact in zip(
        Converter(colour, rgb, height, width)((y, u, v)), reference_rgb(y.astype(float), *up, colour), strict=True
    ):
        assert_rounded(ours, exact, colour.bit_depth)

    red, green, blue = random_picture(rgb, height, width, seed=1)
    luma, _, _ = reference_yuv(red.astype(float), green.astype(float), blue.astype(float), colour)
    means = [block_mean(plane) for plane in (red, green, blue)]
    _, cb, cr = reference_yuv(*means, colour)
    for ours, exact in zip(Converter(rgb, colour, height, width)((red, green, blue)), (luma, cb, cr), strict=True):
        assert_rounded(ours, exact, colour.bit_depth)


def block_mean(plane):
    height, width = plane.shape
    mean = np.empty((-(-height // 2), -(-width // 2)))
    for i in range(mean.shape[0]):
        for j in range(mean.shape[1]):
            mean[i, j] = plane[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].astype(float).mean()
    return mean


def test_known_colours_of_the_recommendations():
    red = read_only(tuple(np.full((2, 2), value, np.uint8) for value in (255, 0, 0)))
    for matrix, expected in {"bt601": (81, 90, 240), "bt709": (63, 102, 240)}.items():
        yuv = Converter(replace(RGB, matrix=matrix), replace(YUV420, matrix=matrix), 2, 2)(red)
        assert tuple(int(plane[0, 0]) for plane in yuv) == expected
    jpeg = replace(YUV420, matrix="bt601", full_range=True)
    assert [int(p[0, 0]) for p in Converter(replace(jpeg, rgb=True, subsampled=False), jpeg, 2, 2)(red)] == [
        76,
        85,
        255,
    ]


def test_the_matrices_are_each_others_inverse():
    for colour in COLOURS:
        there, back = yuv_from_rgb(colour), rgb_from_yuv(colour)
        np.testing.assert_allclose(there[:, :3] @ back[:, :3], np.eye(3), atol=1e-12)
        np.testing.assert_allclose(there[:, :3] @ back[:, 3] + there[:, 3], 0, atol=1e-9)


def test_444_and_420_replicate_and_average():
    full = replace(YUV420, subsampled=False)
    picture = random_picture(full, 5, 7)
    small = Converter(full, YUV420, 5, 7)(picture)
    assert small[0] is not None and (small[0] == picture[0]).all()
    assert (small[1] == rounded(block_mean(picture[1]), 8)).all()
    large = Converter(YUV420, full, 5, 7)(small)
    assert (large[2] == np.repeat(np.repeat(small[2], 2, 0), 2, 1)[:5, :7]).all()


def test_box2_is_the_rounded_mean_at_even_and_odd_sizes():
    for height, width, dtype in ((8, 6, np.uint8), (5, 7, np.uint8), (1, 1, np.uint8), (9, 4, np.uint16)):
        plane = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (height, width)).astype(dtype)
        assert (box2(plane) == np.floor(block_mean(plane) + 0.5)).all()
        assert box2(plane).dtype == dtype
