"""Pictures, small files and formats for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.evaluator.frames import Format, read_only

YUV420 = Format(rgb=False, subsampled=True, bit_depth=8, matrix="bt709", full_range=False)
RGB = Format(rgb=True, subsampled=False, bit_depth=8, matrix="bt709", full_range=False)


def random_picture(fmt: Format, height: int, width: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    top = 1 << fmt.bit_depth
    shapes = [(height, width), fmt.chroma(height, width), fmt.chroma(height, width)]
    return read_only(tuple(rng.integers(0, top, shape).astype(fmt.dtype) for shape in shapes))


def write_y4m(path: Path, frames: int = 3, width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """A 4:2:0 y4m file of noise; returns its raw bytes, one row a frame."""
    size = width * height + 2 * -(-width // 2) * -(-height // 2)
    raw = np.random.default_rng(seed).integers(0, 256, (frames, size), np.uint8)
    header = f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\n".encode()
    path.write_bytes(header + b"".join(b"FRAME\n" + frame.tobytes() for frame in raw))
    return raw
