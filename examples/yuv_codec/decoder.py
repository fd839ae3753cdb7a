"""The decoder of the plane codec: sums the changes up, frame by frame."""

import zlib

import torch

FORMAT = "yuv420"


def decode(bitstream, ctx):
    """bytes -> Y [T, H, W] and U, V [T, H/2, W/2] (rounded up), uint8."""
    shift = bitstream[0]
    body = torch.frombuffer(bytearray(zlib.decompress(bitstream[1:])), dtype=torch.uint8).to(ctx.device)
    count, height, width = ctx.clip.frames, ctx.clip.height, ctx.clip.width
    half = (-(-height // 2), -(-width // 2))
    sizes = [count * rows * columns for rows, columns in ((height, width), half, half)]
    shapes = ((count, height, width), (count, *half), (count, *half))
    return tuple(restore(part.view(shape), shift) for part, shape in zip(body.split(sizes), shapes, strict=True))


def restore(changes, shift):
    levels = torch.cumsum(changes, dim=0, dtype=torch.int32) & (0xFF >> shift)
    middle = (1 << shift) >> 1  # of the values that the dropped bits can take
    return ((levels << shift) + middle).to(torch.uint8)
