"""Every metric that a job can ask for. A new one is one file here and one line in ``METRICS``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.evaluator.metrics.base import MetricFactory

# Where each is found: the API process needs the names, and must not load the compiler that the kernels need.
METRICS = {
    "psnr": "app.evaluator.metrics.psnr:Psnr",
    "ssim": "app.evaluator.metrics.ssim:Ssim",
    "vmaf": "app.evaluator.metrics.vmaf:Vmaf",
    "ms_ssim": "app.evaluator.metrics.ms_ssim:MsSsim",
}

# Those that are compiled at their first use, which no job should have to wait for.
COMPILED = ("psnr", "ssim", "ms_ssim")


def load(name: str) -> MetricFactory:
    """The metric of that name."""
    module, _, factory = METRICS[name].partition(":")
    found: MetricFactory = getattr(import_module(module), factory)
    return found
