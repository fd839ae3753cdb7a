"""Every metric that a job can ask for. A new one is one file here and one line in ``METRICS``."""

from __future__ import annotations

from app.evaluator.metrics.base import FramePair, Metric, MetricFactory, Scores
from app.evaluator.metrics.psnr import Psnr
from app.evaluator.metrics.ssim import Ssim

METRICS: dict[str, MetricFactory] = {"psnr": Psnr, "ssim": Ssim}

__all__ = ["METRICS", "FramePair", "Metric", "MetricFactory", "Scores"]
