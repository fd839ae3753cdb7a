"""Attempts for an executor, and a data folder with a tiny suite."""

from __future__ import annotations

import hashlib
from pathlib import Path

from app.domain.evaluation import Params
from app.domain.job import JobSpec, Limits
from app.evaluator.clips.add import add_suite
from app.ports import Work
from tests.sandbox.jails import DECODER, ENCODER

SUITE = "tiny"


def work(
    encoder: str = ENCODER,
    decoder: str = DECODER,
    *,
    job_id: str = "job",
    rate_points: tuple[Params, ...] = ({},),
    wall_s: float = 60,
) -> Work:
    spec = JobSpec(
        encoder_sha256=hashlib.sha256(encoder.encode()).hexdigest(),
        decoder_sha256=hashlib.sha256(decoder.encode()).hexdigest(),
        contract="native",
        body_sha256="0" * 64,
        suite=SUITE,
        rate_points=rate_points,
        limits=Limits(wall_s=wall_s),
    )
    return Work(job_id=job_id, attempt=1, spec=spec, encoder=encoder, decoder=decoder, lane="cpu")


def write_suite(data_dir: Path) -> None:
    """One clip of two 64x64 frames of a gradient."""
    luma = bytes((x + y) % 256 for y in range(64) for x in range(64))
    frame = b"FRAME\n" + luma + bytes([120]) * 32 * 32 + bytes([130]) * 32 * 32
    clip = data_dir / "tiny.y4m"
    clip.write_bytes(b"YUV4MPEG2 W64 H64 F25:1 Ip A1:1 C420jpeg\n" + frame * 2)
    add_suite(data_dir, SUITE, [clip])
