"""Small codecs that run in this process. They are real: what they encode is what they decode."""

from __future__ import annotations

import zlib

import numpy as np

from app.domain.errors import SubmissionError
from app.domain.job import ErrorType, Fault, Stage
from app.evaluator.codec import Decoded, Encoded, Layout


class Shifting:
    """Drops the lowest bits (the parameter ``shift``, default 0: lossless) and deflates the rest."""

    def __init__(self, layout: Layout = Layout.YUV420) -> None:
        self.layout = layout
        self.walls: list[float] = []
        self.decodes = 0

    def encode(self, frames, params, *, wall_s):
        self.walls.append(wall_s)
        shift = params.get("shift", 0)
        data = bytes([shift]) + zlib.compress((frames.array >> shift).tobytes(), 1)
        return Encoded(
            bitstream=data, load_s=0.5, setup_s=0.25, encode_s=2.0, peak_memory_bytes=10, self_reported={"psnr": 99}
        )

    def decode(self, bitstream, geometry, *, wall_s):
        self.walls.append(wall_s)
        self.decodes += 1
        frames = np.frombuffer(zlib.decompress(bitstream[1:]), np.uint8) << bitstream[0]
        return Decoded(frames=frames, load_s=0.5, setup_s=0.25, decode_s=4.0, peak_memory_bytes=20)


class Failing(Shifting):
    """Raises ``error``, or a submission's fault, at the given call of the given stage."""

    def __init__(self, stage: Stage, *, at: int = 1, error: Exception | None = None, kind=ErrorType.EXCEPTION) -> None:
        super().__init__()
        self._stage, self._left = stage, at
        self._error = error or SubmissionError(Fault(error_type=kind, message="it broke", stage=stage))

    def _maybe(self, stage):
        if stage is self._stage:
            self._left -= 1
            if self._left == 0:
                raise self._error

    def encode(self, frames, params, *, wall_s):
        self._maybe(Stage.ENCODE)
        return super().encode(frames, params, wall_s=wall_s)

    def decode(self, bitstream, geometry, *, wall_s):
        self._maybe(Stage.DECODE)
        return super().decode(bitstream, geometry, wall_s=wall_s)


class Drifting(Shifting):
    """Every decode gives other frames than the one before."""

    def decode(self, bitstream, geometry, *, wall_s):
        decoded = super().decode(bitstream, geometry, wall_s=wall_s)
        frames = decoded.frames.copy()
        frames[0] ^= self.decodes
        return Decoded(frames=frames, load_s=0, setup_s=0, decode_s=1)
