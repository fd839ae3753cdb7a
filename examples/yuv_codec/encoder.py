"""A codec that works on the planes themselves: each sample coded as its change since the frame before, deflated.

``FORMAT = "yuv420"`` asks for the clip's own planes, so that no colour conversion stands between codec and score.
``params["shift"]`` (0 to 6, default 0) drops that many low bits first; 0 is lossless.
"""

import zlib

import torch

FORMAT = "yuv420"


def encode(planes, ctx):
    """Y [T, H, W] and U, V [T, H/2, W/2] (rounded up), uint8 -> bytes."""
    shift = min(6, max(0, int(ctx.params.get("shift", 0))))
    body = b"".join(differences(plane >> shift) for plane in planes)
    return bytes([shift]) + zlib.compress(body, 9)


def differences(plane):
    """uint8 wraps around, in both directions alike."""
    first = torch.zeros_like(plane[:1])
    return (plane - torch.cat([first, plane[:-1]])).cpu().numpy().tobytes()
