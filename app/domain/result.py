"""A finished job as the orchestrator hears of it: the result that is pushed, in the old system's words."""

from __future__ import annotations

import math

from app.domain.evaluation import Json, Measurement, Report
from app.domain.job import Job, Stage, Status

_METRICS = ("bitrate_mbps", "psnr_db", "ssim")


def result_of(job: Job, *, worker_id: str, report_url: str) -> dict[str, Json]:
    """The body of ``POST {orchestrator}/experiment_result`` for a terminal job.

    ``metrics`` is rate point 0: sizes and seconds summed over its clips, the bitrate that of all clips one after
    another, qualities averaged over them. What was not measured is null, and ``metrics_missing`` says why.
    """
    metrics, missing = _metrics(job)
    encoded, decoded = _sides(job)
    body: dict[str, Json] = {
        "experiment_id": job.experiment_id,
        "job_id": job.id,
        "status": _status(job, encoded, decoded),
        "state": job.status.value,
        "metrics": metrics,
        "metrics_missing": missing,
        "encoding_result": _side(job, encoded, "encode"),
        "decoding_result": _side(job, decoded, "decode"),
        "execution_success": {"encoding": encoded, "decoding": decoded},
        "worker_id": worker_id,
        "timestamp": int(job.finished_at or job.created_at),
        "fault": job.fault.blame.value if job.fault else None,
        "error_type": job.fault.error_type.value if job.fault else None,
        "report_url": report_url,
    }
    error = _error(job)
    if error is not None:
        body["error"] = error
    return body


def _points(report: Report | None) -> list[Measurement]:
    return [point for point in report.points if point.rate_point == 0] if report else []


def _sides(job: Job) -> tuple[bool, bool]:
    """Whether encoding and decoding went well, as far as the job came."""
    if job.status is Status.SUCCEEDED:
        return True, True
    if job.fault is not None and job.fault.stage in (Stage.DECODE, Stage.MEASURE):
        return True, job.fault.stage is Stage.MEASURE
    return False, False


def _status(job: Job, encoded: bool, decoded: bool) -> str:
    if job.status is Status.SUCCEEDED:
        return "completed"
    return "partial_success" if job.status is Status.FAILED and encoded and not decoded else "failed"


def _error(job: Job) -> str | None:
    if job.fault is not None:
        return job.fault.message
    return "the job was cancelled" if job.status is Status.CANCELLED else None


def _side(job: Job, success: bool, stage: str) -> dict[str, Json]:
    side: dict[str, Json] = {"success": success}
    points = _points(job.report)
    if points:
        side["processing_time_seconds"] = math.fsum(getattr(point, f"{stage}_s") for point in points)
        side["size_bytes"] = sum(point.bitstream_bytes for point in points)
    if job.fault is not None and job.fault.stage is not None and job.fault.stage.value in (stage, "load"):
        side["error"] = job.fault.message
    return side


def _metrics(job: Job) -> tuple[dict[str, Json], dict[str, Json]]:
    points = _points(job.report)
    names = (*_METRICS, "compression_ratio", "original_size_bytes", "compressed_size_bytes", "processing_time_seconds")
    if not points:
        reason = _error(job) or "nothing was measured"
        return dict.fromkeys(names), dict.fromkeys(names, reason)
    compressed = sum(point.bitstream_bytes for point in points)
    original = round(math.fsum(point.bitstream_bytes * point.compression_ratio for point in points))
    metrics: dict[str, Json] = {
        "original_size_bytes": original,
        "compressed_size_bytes": compressed,
        "compression_ratio": 100.0 * (1.0 - compressed / original),
        "processing_time_seconds": math.fsum(point.encode_s + point.decode_s for point in points),
    }
    missing: dict[str, Json] = {}
    seconds = [point.frames / point.fps for point in points if point.fps is not None]
    rate = [compressed * 8 / math.fsum(seconds) / 1e6] * len(seconds) if seconds else []
    _put(metrics, missing, "bitrate_mbps", rate, points, "a still image has no bitrate")
    for name, metric in (("psnr_db", "psnr_yuv"), ("ssim", "ssim")):
        values = [point.metrics[metric] for point in points if metric in point.metrics]
        reasons = [point.missing[metric] for point in points if metric in point.missing]
        _put(metrics, missing, name, values, points, reasons[0] if reasons else "it was not asked for")
    return metrics, missing


def _put(
    metrics: dict[str, Json],
    missing: dict[str, Json],
    name: str,
    values: list[float],
    points: list[Measurement],
    reason: str,
) -> None:
    if len(values) == len(points):
        metrics[name] = math.fsum(values) / len(values)
    else:
        metrics[name] = None
        missing[name] = reason
