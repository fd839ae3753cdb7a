"""SSIM of luma: Gaussian window 11x11 of sigma 1.5, K1 0.01, K2 0.03, population covariance, no downsampling.

Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE TIP 13(4), 2004. The mean is over the positions at which the window lies wholly inside the frame, as
in the authors' own program.

It is computed from the difference d = a - b, since 2 cov(a, b) = var(a) + var(b) - var(d) and likewise for the means:

    SSIM = (1 - mean(d)^2 / (mean(a)^2 + mean(b)^2 + C1)) (1 - var(d) / (var(a) + var(b) + C2))

In float32 that is some fifty times closer than the usual form where both pictures are flat and bright or dark.
"""

from __future__ import annotations

import math

import numpy as np

from app.evaluator.frames import Plane
from app.evaluator.kernels import kernel
from app.evaluator.metrics.base import LumaMetric

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def _half_window() -> tuple[np.float32, ...]:
    """The window's first six weights, from its edge to its middle; the others mirror them."""
    weights = [math.exp(-((offset / SIGMA) ** 2) / 2) for offset in range(-(WINDOW // 2), WINDOW // 2 + 1)]
    return tuple(np.float32(weight / math.fsum(weights)) for weight in weights[: WINDOW // 2 + 1])


HALF_WINDOW = _half_window()


def similarity(source: Plane, decoded: Plane, peak: int) -> tuple[float, float]:
    """SSIM of two planes [H, W], and its factor for contrast and structure alone, each the mean over all positions."""
    c1, c2 = np.float32((K1 * peak) ** 2), np.float32((K2 * peak) ** 2)
    ssim, structure = _ssim(source, decoded, HALF_WINDOW, np.float32((peak + 1) // 2), c1, c2)
    return ssim, structure


class Ssim(LumaMetric):
    """The metric ``ssim``."""

    name = "ssim"
    min_side = WINDOW
    too_small = f"are smaller than the {WINDOW}x{WINDOW} window"

    def score(self, source: Plane, decoded: Plane) -> float:
        return similarity(source, decoded, self.peak)[0]


@kernel(fastmath=True)
def _rows(source, decoded, i, w, middle, product, out):  # type: ignore[no-untyped-def]  # numba's to find
    """Row i, filtered along the row: the source, the difference, the sum of both squares, the difference's square.

    ``middle`` is taken off before squaring, without which float32 loses what SSIM is made of.
    """
    width = source.shape[1]
    for j in range(width):
        a = np.float32(source[i, j]) - middle
        b = np.float32(decoded[i, j]) - middle
        product[0, j] = a
        product[1, j] = a - b
        product[2, j] = a * a + b * b
        product[3, j] = (a - b) * (a - b)
    for k in range(4):
        p = product[k]
        for j in range(width - 10):
            out[k, j] = (
                w[0] * (p[j] + p[j + 10])
                + w[1] * (p[j + 1] + p[j + 9])
                + w[2] * (p[j + 2] + p[j + 8])
                + w[3] * (p[j + 3] + p[j + 7])
                + w[4] * (p[j + 4] + p[j + 6])
                + w[5] * p[j + 5]
            )


@kernel(fastmath=True)
def _columns(r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, w, out):  # type: ignore[no-untyped-def]  # numba's to find
    for j in range(out.shape[0]):
        out[j] = (
            w[0] * (r0[j] + r10[j])
            + w[1] * (r1[j] + r9[j])
            + w[2] * (r2[j] + r8[j])
            + w[3] * (r3[j] + r7[j])
            + w[4] * (r4[j] + r6[j])
            + w[5] * r5[j]
        )


@kernel(fastmath=True)
def _ssim(source, decoded, w, middle, c1, c2):  # type: ignore[no-untyped-def]  # numba's to find
    height, width = source.shape
    valid = width - 10
    product = np.empty((4, width), np.float32)
    ring = np.empty((11, 4, valid), np.float32)
    mean = np.empty((4, valid), np.float32)
    values = np.empty(valid, np.float32)
    structures = np.empty(valid, np.float32)
    one = np.float32(1)
    total, total_structure = 0.0, 0.0
    for i in range(height):
        _rows(source, decoded, i, w, middle, product, ring[i % 11])
        if i < 10:
            continue
        for k in range(4):
            _columns(
                ring[(i + 1) % 11, k],
                ring[(i + 2) % 11, k],
                ring[(i + 3) % 11, k],
                ring[(i + 4) % 11, k],
                ring[(i + 5) % 11, k],
                ring[(i + 6) % 11, k],
                ring[(i + 7) % 11, k],
                ring[(i + 8) % 11, k],
                ring[(i + 9) % 11, k],
                ring[(i + 10) % 11, k],
                ring[i % 11, k],
                w,
                mean[k],
            )
        for j in range(valid):
            ma, md = mean[0, j], mean[1, j]
            mb = ma - md
            variances = mean[2, j] - ma * ma - mb * mb
            la, lb = ma + middle, mb + middle
            luminance = one - md * md / (la * la + lb * lb + c1)
            structures[j] = one - (mean[3, j] - md * md) / (variances + c2)
            values[j] = luminance * structures[j]
        row, row_structure = 0.0, 0.0
        for j in range(valid):
            row += values[j]
            row_structure += structures[j]
        total += row
        total_structure += row_structure
    positions = (height - 10) * valid
    return total / positions, total_structure / positions
