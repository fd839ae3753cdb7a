"""VMAF against the same program fed with files, and what is said where there is none."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from app.evaluator.frames import read_only
from app.evaluator.metrics import load, vmaf
from app.evaluator.metrics.base import FramePair

PROGRAM = vmaf.ffmpeg_with_libvmaf()
needs_libvmaf = pytest.mark.skipif(PROGRAM is None, reason=vmaf.ABSENT)


def clip(height, width, frames, dtype=np.uint8, top=255, chroma=2):
    rng = np.random.default_rng(7)
    wave = np.add.outer(np.arange(height), np.arange(width))
    made = []
    for index in range(frames):
        luma = (top // 2 + top * 0.3 * np.sin((wave + 3 * index) / 9) + rng.normal(0, top / 60, wave.shape)).clip(
            0, top
        )
        plain = np.full((-(-height // chroma), -(-width // chroma)), top // 2, dtype)
        made.append(read_only((luma.astype(dtype), plain, plain)))
    return made


def degraded(picture, step):
    return read_only(tuple((plane // step * step).astype(plane.dtype) for plane in picture))


def scores(sources, decoded, peak=255):
    metric = load("vmaf")(peak)
    for pair in zip(sources, decoded, strict=True):
        metric.add(FramePair(yuv=pair, rgb=pair))
    return metric.result()


@needs_libvmaf
@pytest.mark.parametrize(
    ("pix_fmt", "dtype", "top", "peak", "chroma"),
    [("yuv420p", np.uint8, 255, 255, 2), ("yuv444p", np.uint8, 255, 255, 1), ("yuv420p10le", np.uint16, 1023, 1020, 2)],
)
def test_it_is_what_the_program_says_of_files(tmp_path, pix_fmt, dtype, top, peak, chroma):
    sources = clip(144, 178, 5, dtype, top, chroma)
    decoded = [degraded(picture, 24 * (top // 255)) for picture in sources]
    for name, pictures in (("source", sources), ("decoded", decoded)):
        (tmp_path / name).write_bytes(b"".join(plane.tobytes() for picture in pictures for plane in picture))
    for model, name in (("vmaf_v0.6.1", "vmaf"), ("vmaf_v0.6.1neg", "vmaf_neg")):
        raw = ["-f", "rawvideo", "-pix_fmt", pix_fmt, "-s", "178x144"]
        log = tmp_path / f"{name}.json"
        subprocess.run(
            [
                *(
                    PROGRAM,
                    "-y",
                    "-loglevel",
                    "error",
                    *raw,
                    "-i",
                    tmp_path / "decoded",
                    *raw,
                    "-i",
                    tmp_path / "source",
                ),
                *("-lavfi", f"libvmaf=model=version={model}:log_fmt=json:log_path={log}", "-f", "null", "-"),
            ],
            check=True,
        )
        expected = json.loads(log.read_text())
        result = scores(sources, decoded, peak)
        assert result.metrics[name] == pytest.approx(expected["pooled_metrics"]["vmaf"]["mean"], abs=1e-4)
        assert result.worst_frame[name] == pytest.approx(expected["pooled_metrics"]["vmaf"]["min"], abs=1e-4)
    assert 0 < result.metrics["vmaf"] < 100


@needs_libvmaf
def test_more_frames_than_a_pipe_holds_and_odd_sizes():
    sources = clip(131, 177, 70)
    assert scores(sources, sources).metrics["vmaf"] > 90


@needs_libvmaf
def test_frames_that_it_cannot_score_are_missing_with_its_reason():
    tiny = clip(4, 4, 200)
    result = scores(tiny, tiny)
    assert result.metrics == {} or set(result.metrics) == set(vmaf.NAMES)
    assert all(result.missing.values())


def test_without_the_program_it_is_missing_and_says_what_to_install(monkeypatch):
    monkeypatch.setattr(vmaf, "ffmpeg_with_libvmaf", lambda: None)
    sources = clip(64, 64, 1)
    result = scores(sources, sources)
    assert result.metrics == {} and result.missing == dict.fromkeys(vmaf.NAMES, vmaf.ABSENT)
