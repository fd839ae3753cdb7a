"""PSNR and SSIM against scikit-image, a float64 reference, and known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_msssim import ms_ssim as pytorch_ms_ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from app.evaluator.clips.decode import decode
from app.evaluator.frames import read_only
from app.evaluator.kernels import kernel
from app.evaluator.metrics import METRICS, load
from app.evaluator.metrics.base import FramePair, Pairing
from app.evaluator.metrics.psnr import Psnr, combine
from app.evaluator.metrics.ssim import Ssim
from tests.evaluator.pictures import RGB, YUV420, random_picture


def pair_of(source, decoded):
    return FramePair(yuv=(source, decoded), rgb=(source, decoded))


def scored(metric, *pairs):
    for source, decoded in pairs:
        metric.add(pair_of(source, decoded))
    return metric.result()


def noisy(picture, sigma, seed=1, top=255):
    rng = np.random.default_rng(seed)
    return read_only(
        tuple(np.clip(plane + rng.normal(0, sigma, plane.shape), 0, top).astype(plane.dtype) for plane in picture)
    )


def test_6_1_1_is_the_known_answer_of_dcvcs_table():
    """VTM, Beauty, QP 22, as DCVC's published results state it."""
    planes = {"y": 39.919552, "u": 39.437203, "v": 41.739133}
    assert combine(planes) == pytest.approx(40.086706, abs=1e-5)


@pytest.mark.parametrize("depth", [8, 10])
def test_psnr_is_scikit_images(depth):
    fmt = replace(YUV420, bit_depth=depth)
    sources = [random_picture(fmt, 33, 47, seed) for seed in range(3)]
    pairs = [(source, noisy(source, 5 * 4 ** (depth > 8), top=2**depth - 1)) for source in sources]
    scores = scored(Psnr(fmt.peak), *pairs)
    for index, plane in enumerate("yuv"):
        each = [peak_signal_noise_ratio(a[index], b[index], data_range=fmt.peak) for a, b in pairs]
        assert scores.metrics[f"psnr_{plane}"] == pytest.approx(np.mean(each), abs=1e-9)
        assert scores.worst_frame[f"psnr_{plane}"] == pytest.approx(min(each), abs=1e-9)
        together = [np.stack([pair[side][index] for pair in pairs]) for side in (0, 1)]
        pooled = peak_signal_noise_ratio(*together, data_range=fmt.peak)
        assert scores.metrics[f"apsnr_{plane}"] == pytest.approx(pooled, abs=1e-9)
    y, u, v = (scores.metrics[f"psnr_{plane}"] for plane in "yuv")
    assert scores.metrics["psnr_yuv"] == pytest.approx((6 * y + u + v) / 8, abs=1e-9)


def test_psnr_rgb_pools_the_three_channels_of_a_frame():
    source = random_picture(RGB, 16, 16)
    decoded = read_only((source[0] ^ 1, source[1] ^ 3, source[2]))
    mse = np.mean((np.stack(source).astype(float) - np.stack(decoded)) ** 2)
    scores = scored(Psnr(255), (source, decoded))
    assert scores.metrics["psnr_rgb"] == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-9)
    assert scores.metrics["apsnr_rgb"] == pytest.approx(scores.metrics["psnr_rgb"], abs=1e-9)


def test_the_largest_error_of_ten_bit_samples_does_not_overflow():
    black = read_only(tuple(np.zeros((64, 64), np.uint16) for _ in range(3)))
    white = read_only(tuple(np.full((64, 64), 1023, np.uint16) for _ in range(3)))
    assert scored(Psnr(1020), (black, white)).metrics["psnr_y"] == pytest.approx(20 * np.log10(1020 / 1023), abs=1e-9)


def test_identical_frames_have_no_number_and_never_a_placeholder():
    source = random_picture(YUV420, 16, 16)
    scores = scored(Psnr(255), (source, source))
    assert scores.metrics == {} and scores.worst_frame == {}
    names = {f"{kind}_{plane}" for kind in ("psnr", "apsnr") for plane in ("y", "u", "v", "yuv", "rgb")}
    assert scores.missing.keys() == names
    assert all("identical" in reason for reason in scores.missing.values())


def test_one_identical_frame_makes_the_mean_the_pooled_value():
    source = random_picture(YUV420, 16, 16)
    decoded = noisy(source, 4)
    scores = scored(Psnr(255), (source, decoded), (source, source))
    assert scores.identical_frames == dict.fromkeys(("psnr_y", "psnr_u", "psnr_v", "psnr_rgb"), 1)
    assert scores.metrics["psnr_y"] == scores.metrics["apsnr_y"]
    alone = scored(Psnr(255), (source, decoded)).metrics["psnr_y"]
    assert scores.metrics["psnr_y"] == pytest.approx(alone + 10 * np.log10(2), abs=1e-9)


def test_a_plane_that_is_identical_leaves_its_weight_to_the_others():
    source = random_picture(YUV420, 16, 16)
    decoded = noisy(source, 4)
    scores = scored(Psnr(255), (source, read_only((decoded[0], source[1], decoded[2]))))
    assert set(scores.missing) == {"psnr_u", "apsnr_u"}
    y, v = scores.metrics["psnr_y"], scores.metrics["psnr_v"]
    assert scores.metrics["psnr_yuv"] == pytest.approx((6 * y + v) / 7, abs=1e-9)
    without_luma = scored(Psnr(255), (source, read_only((source[0], decoded[1], decoded[2]))))
    assert "psnr_yuv" in without_luma.missing and "psnr_yuv" not in without_luma.metrics


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 20), width=st.integers(1, 20), sigma=st.floats(0.6, 60))
def test_psnr_is_symmetric_finite_and_falls_with_noise(seed, height, width, sigma):
    source = random_picture(YUV420, height, width, seed)
    decoded = noisy(source, sigma, seed + 1)
    there, back = (scored(Psnr(255), pair) for pair in ((source, decoded), (decoded, source)))
    assert there == back
    assert all(np.isfinite(value) for value in there.metrics.values())
    assert not there.metrics.keys() & there.missing.keys()
    if "psnr_y" in there.metrics:
        difference = decoded[0].astype(int) - source[0]
        worse = read_only(((np.clip(source[0] + 2 * difference, 0, 255)).astype(np.uint8), *decoded[1:]))
        assert scored(Psnr(255), (source, worse)).metrics["psnr_y"] <= there.metrics["psnr_y"]


def skimage_ssim(a, b, peak):
    _, values = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=peak, full=True
    )
    return values[5:-5, 5:-5].mean(dtype=np.float64)


@pytest.mark.parametrize("size", [(11, 11), (12, 40), (61, 43), (144, 176)])
@pytest.mark.parametrize("depth", [8, 10])
def test_ssim_is_scikit_images_where_the_window_is_inside(size, depth):
    fmt = replace(YUV420, bit_depth=depth)
    source = random_picture(fmt, *size)
    decoded = noisy(source, 6 * 4 ** (depth > 8), top=2**depth - 1)
    ours = scored(Ssim(fmt.peak), (source, decoded)).metrics["ssim"]
    assert ours == pytest.approx(skimage_ssim(source[0], decoded[0], fmt.peak), abs=1e-6)


def test_ssim_holds_in_dark_and_bright_flat_areas():
    """Where float32 would lose the variance if squares were taken of the samples themselves."""
    for level in (2, 16, 128, 235, 253):
        source = read_only(tuple(np.full((48, 48), level, np.uint8) for _ in range(3)))
        decoded = noisy(source, 1)
        ours = scored(Ssim(255), (source, decoded)).metrics["ssim"]
        assert ours == pytest.approx(skimage_ssim(source[0], decoded[0], 255), abs=1e-5)


def test_ssim_of_a_real_frame(shared_clip):
    frames = [picture for _, picture in decode(shared_clip("tree_cif_30f.y4m"), "tree")][:2]
    decoded = [read_only(tuple(plane & 0xF0 for plane in frame)) for frame in frames]
    scores = scored(Ssim(255), *[(read_only(a), b) for a, b in zip(frames, decoded, strict=True)])
    each = [skimage_ssim(a[0], b[0], 255) for a, b in zip(frames, decoded, strict=True)]
    assert scores.metrics["ssim"] == pytest.approx(np.mean(each), abs=1e-5)
    assert scores.worst_frame["ssim"] == pytest.approx(min(each), abs=1e-5)


def test_ssim_of_identical_frames_is_one_and_of_tiny_ones_missing():
    source = random_picture(YUV420, 16, 16)
    assert scored(Ssim(255), (source, source)).metrics == {"ssim": 1.0}
    tiny = random_picture(YUV420, 10, 64)
    scores = scored(Ssim(255), (tiny, noisy(tiny, 3)))
    assert scores.metrics == {} and "64x10" in scores.missing["ssim"]


def test_an_rgb_codecs_frames_are_compared_in_the_clips_format_and_in_their_own():
    native, source, decoded = (
        random_picture(YUV420, 16, 16),
        random_picture(RGB, 16, 16, 1),
        random_picture(RGB, 16, 16, 2),
    )
    pair = Pairing(YUV420, RGB, 16, 16).pair(native, source, decoded)
    assert pair.rgb[0] is source and pair.rgb[1] is decoded
    assert pair.yuv[0] is native and pair.yuv[1][1].shape == (8, 8)


def test_a_yuv_codecs_frames_never_pass_through_rgb_for_yuv_metrics():
    native, decoded = random_picture(YUV420, 16, 16), random_picture(YUV420, 16, 16, 1)
    pair = Pairing(YUV420, YUV420, 16, 16).pair(native, native, decoded)
    assert pair.yuv == (native, decoded)
    assert pair.rgb[0][1].shape == (16, 16) and not (pair.rgb[0][0] == pair.rgb[1][0]).all()


def test_every_metric_in_the_table_loads():
    for name in METRICS:
        assert load(name)(255).result is not None


def test_a_kernel_that_cannot_be_cached_is_compiled_all_the_same():
    """A source that is no file has no place for a cache, like a read-only image without NUMBA_CACHE_DIR."""
    room = {}
    exec("def add(a, b):\n    return a + b\n", room)
    assert kernel()(room["add"])(2, 3) == 5


@pytest.mark.parametrize("size", [(288, 352), (180, 177), (177, 333), (360, 640)])
@pytest.mark.parametrize("sigma", [1, 12, 60])
def test_ms_ssim_is_pytorch_msssims(size, sigma):
    source = read_only(tuple(smooth(size, seed) for seed in range(3)))
    decoded = noisy(source, sigma)
    planes = [torch.from_numpy(picture[0].astype(np.float64))[None, None] for picture in (source, decoded)]
    expected = pytorch_ms_ssim(*planes, data_range=255, size_average=True).item()
    scores = scored(load("ms_ssim")(255), (source, decoded))
    assert scores.metrics["ms_ssim"] == pytest.approx(expected, abs=2e-6)
    assert scores.worst_frame["ms_ssim"] == scores.metrics["ms_ssim"]


def test_ms_ssim_of_the_same_is_one_and_of_small_frames_is_missing_with_the_reason():
    source = read_only(tuple(smooth((176, 176), seed) for seed in range(3)))
    assert scored(load("ms_ssim")(255), (source, source)).metrics["ms_ssim"] == pytest.approx(1, abs=1e-7)
    small = random_picture(YUV420, 175, 400)
    scores = scored(load("ms_ssim")(255), (small, small))
    assert scores.metrics == {} and "175" in scores.missing["ms_ssim"]


def test_ms_ssim_of_opposed_pictures_is_a_number():
    source = read_only(tuple(smooth((200, 200), seed) for seed in range(3)))
    inverted = read_only(tuple(255 - plane for plane in source))
    assert scored(load("ms_ssim")(255), (source, inverted)).metrics["ms_ssim"] == pytest.approx(0, abs=0.2)


def smooth(size, seed):
    """Something like a picture: noise at several scales."""
    rng = np.random.default_rng(seed)
    total = sum(
        np.kron(rng.normal(0, 12 * scale**0.5, (size[0] // scale + 1, size[1] // scale + 1)), np.ones((scale, scale)))[
            : size[0], : size[1]
        ]
        for scale in (1, 4, 16, 64)
    )
    return np.clip(128 + total, 0, 255).astype(np.uint8)
