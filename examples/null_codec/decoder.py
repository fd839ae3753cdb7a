"""The other half of the least codec."""

import zlib

import torch


def decode(bitstream, ctx):
    """bytes -> [T, 3, H, W] uint8."""
    samples = torch.frombuffer(bytearray(zlib.decompress(bitstream)), dtype=torch.uint8)
    return samples.view(ctx.clip.frames, 3, ctx.clip.height, ctx.clip.width).to(ctx.device)
