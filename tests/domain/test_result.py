"""What the orchestrator is told about a finished job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.evaluation import Measurement, Report, rd_curves, summarise
from app.domain.job import ErrorType, Fault, Job, JobSpec, Stage, Status
from app.domain.result import result_of

POINT = Measurement(
    clip="a", rate_point=0, params={}, frames=30, width=64, height=64, fps=25.0, bitstream_bytes=1000,
    bitrate_kbps=800.0, bpp=0.1, compression_ratio=10.0, metrics={"psnr_yuv": 40.0, "psnr_y": 39.0, "ssim": 0.9},
    lossless=False, missing={}, worst_frame={}, load_s=0.1, setup_s=0.0, encode_s=1.0, decode_s=0.5, encode_fps=30.0,
    decode_fps=60.0, peak_memory_bytes=1, bitstream_sha256="b", decoded_sha256="d",
)  # fmt: skip
OTHER = replace(
    POINT,
    clip="b",
    bitstream_bytes=3000,
    bitrate_kbps=400.0,
    metrics={"psnr_yuv": 30.0, "ssim": 0.8},
    compression_ratio=2.0,
)
SECOND_RATE = replace(POINT, rate_point=1, bitstream_bytes=99, metrics={"psnr_yuv": 10.0})
SPEC = JobSpec(encoder_sha256="e", decoder_sha256="d", contract="native", body_sha256="b")
JOB = Job(id="j", experiment_id="x", spec=SPEC, created_at=5.0, finished_at=9.7, status=Status.SUCCEEDED)


def told(**changes):
    return result_of(replace(JOB, **changes), worker_id="w", report_url="http://u")


def test_a_success_sums_sizes_and_averages_qualities_of_rate_point_0():
    body = told(report=Report(points=(POINT, OTHER, SECOND_RATE)))
    assert body["status"] == "completed" and body["state"] == "succeeded"
    assert body["execution_success"] == {"encoding": True, "decoding": True}
    assert body["metrics"] == {
        "original_size_bytes": 16_000,
        "compressed_size_bytes": 4000,
        "compression_ratio": 75.0,
        "processing_time_seconds": 3.0,
        "bitrate_mbps": pytest.approx(4000 * 8 / 2.4 / 1e6),
        "psnr_db": 35.0,
        "ssim": pytest.approx(0.85),
    }
    assert body["metrics_missing"] == {}
    assert body["timestamp"] == 9
    assert "error" not in body


def test_a_metric_that_one_clip_lacks_is_null_with_the_reason():
    lossless = replace(OTHER, metrics={"ssim": 1.0}, missing={"psnr_yuv": "every frame is identical"})
    body = told(report=Report(points=(POINT, lossless)))
    assert body["metrics"]["psnr_db"] is None
    assert body["metrics_missing"] == {"psnr_db": "every frame is identical"}


def test_a_still_image_has_no_bitrate():
    body = told(report=Report(points=(replace(POINT, bitrate_kbps=None, fps=None),)))
    assert body["metrics"]["bitrate_mbps"] is None
    assert "bitrate" in body["metrics_missing"]["bitrate_mbps"]


@pytest.mark.parametrize(
    ("stage", "status", "sides"),
    [
        (Stage.LOAD, "failed", (False, False)),
        (Stage.ENCODE, "failed", (False, False)),
        (Stage.DECODE, "partial_success", (True, False)),
        (Stage.MEASURE, "failed", (True, True)),
        (None, "failed", (False, False)),
    ],
)
def test_a_failure_says_how_far_it_came(stage, status, sides):
    fault = Fault(error_type=ErrorType.EXCEPTION, message="boom", stage=stage)
    body = told(status=Status.FAILED, fault=fault)
    assert body["status"] == status
    assert body["execution_success"] == dict(zip(("encoding", "decoding"), sides, strict=True))
    assert body["error"] == "boom" and body["fault"] == "code"
    assert set(body["metrics"].values()) == {None}
    assert set(body["metrics_missing"].values()) == {"boom"}


def test_a_cancelled_job_is_failed_in_the_old_words():
    body = told(status=Status.CANCELLED)
    assert (body["status"], body["state"]) == ("failed", "cancelled")
    assert body["error"] == "the job was cancelled"


def test_curves_are_sorted_by_rate_and_kept_apart():
    curves = rd_curves([POINT, SECOND_RATE, replace(POINT, bitrate_kbps=100.0, metrics={"psnr_yuv": 30.0})])
    assert curves["a"]["psnr_yuv"] == [[100.0, 30.0], [800.0, 10.0], [800.0, 40.0]]
    assert curves["a"]["ssim"] == [[800.0, 0.9]]


def test_a_summary_has_only_what_every_clip_has():
    first, second = summarise([POINT, OTHER, SECOND_RATE])
    assert first["bitstream_bytes"] == 4000 and first["bitrate_kbps"] == 600.0
    assert first["psnr_yuv"] == 35.0 and "psnr_y" not in first
    assert first["missing"] == {"psnr_y": "clip b: not measured"}
    assert second["rate_point"] == 1 and second["clips"] == 1
