"""MS-SSIM of luma: five scales, each half the one before, with SSIM's window and constants.

Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003.
Contrast and structure count at every scale, luminance at the coarsest alone. A scale is made by averaging 2x2 samples;
a side of odd length begins with a row or column of zeros, as in the implementation that published figures are from.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.evaluator.frames import Plane
from app.evaluator.kernels import kernel
from app.evaluator.metrics.base import LumaMetric
from app.evaluator.metrics.ssim import similarity

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MIN_SIDE = 176


class MsSsim(LumaMetric):
    """The metric ``ms_ssim``."""

    name = "ms_ssim"
    min_side = MIN_SIDE
    too_small = f"have a side below {MIN_SIDE}, too small for five scales"

    def score(self, source: Plane, decoded: Plane) -> float:
        return ms_ssim(source, decoded, self.peak)


def ms_ssim(source: Plane, decoded: Plane, peak: int) -> float:
    """Two planes [H, W]; a scale whose contrast and structure are opposed on the whole counts as 0."""
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            source, decoded = _half(source), _half(decoded)
        ssim, structure = similarity(source, decoded, peak)
        factor = ssim if scale == len(WEIGHTS) - 1 else structure
        product *= max(factor, 0.0) ** weight
    return product


def _half(plane: Plane) -> npt.NDArray[np.float32]:
    height, width = plane.shape
    halved = np.empty(((height + 1) // 2, (width + 1) // 2), np.float32)
    _average(plane, height % 2, width % 2, halved)
    return halved


@kernel(fastmath=True)
def _average(plane, down, right, out):  # type: ignore[no-untyped-def]  # numba's to find
    """The mean of 2x2 samples, of a plane that begins ``down`` rows and ``right`` columns of zeros further on."""
    quarter = np.float32(0.25)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            y, x = 2 * i - down, 2 * j - right
            total = np.float32(plane[y + 1, x + 1])
            if y >= 0:
                total += np.float32(plane[y, x + 1])
            if x >= 0:
                total += np.float32(plane[y + 1, x])
            if y >= 0 and x >= 0:
                total += np.float32(plane[y, x])
            out[i, j] = total * quarter
