"""The least that is a codec: the samples, deflated. Lossless, and of use for timing everything around it."""

import zlib


def encode(frames, ctx):
    """[T, 3, H, W] uint8 -> bytes."""
    return zlib.compress(frames.cpu().numpy().tobytes(), 1)
