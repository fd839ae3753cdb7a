"""What the pipeline drives: a jailed submission and a baseline look the same here."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from app.domain.evaluation import Json, Params

HEADER = struct.Struct("<BBHHIIH")
HEADER_VERSION = 1


class Layout(StrEnum):
    """How frames lie in memory, each as one flat run of samples (uint8, or little-endian uint16 above 8 bit).

    ``rgb`` is [T, 3, H, W]; ``bgr`` is [T, H, W, 3]; ``yuv420`` is Y [T, H, W], then U and V [T, ceil(H/2), ceil(W/2)].
    """

    RGB = "rgb"
    BGR = "bgr"
    YUV420 = "yuv420"


_FORMAT_CODES = {Layout.RGB: 0, Layout.BGR: 1, Layout.YUV420: 2}
_FORMATS = {code: layout for layout, code in _FORMAT_CODES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """All that a decoder is told about the clip."""

    layout: Layout
    frames: int
    height: int
    width: int
    fps: Fraction
    bit_depth: int = 8

    @property
    def sample_bytes(self) -> int:
        return 2 if self.bit_depth > 8 else 1

    @property
    def nbytes(self) -> int:
        """Bytes of all frames in ``layout``."""
        samples = self.height * self.width
        if self.layout is Layout.YUV420:
            samples += 2 * -(-self.height // 2) * -(-self.width // 2)
        else:
            samples *= 3
        return samples * self.frames * self.sample_bytes

    def pack(self) -> bytes:
        """The 16 bytes that precede every bitstream and are charged to it.

        Little-endian: u8 version, u8 format (bit 7 set above 8 bit), u16 width, u16 height, u32 frames, u32 fps
        numerator, u16 fps denominator.
        """
        code = _FORMAT_CODES[self.layout] | (0x80 if self.bit_depth > 8 else 0)
        fps = self.fps.limit_denominator(0xFFFF)
        return HEADER.pack(HEADER_VERSION, code, self.width, self.height, self.frames, fps.numerator, fps.denominator)

    @classmethod
    def unpack(cls, header: bytes) -> Geometry:
        """The geometry in a bitstream's first 16 bytes; ``ValueError`` if they are not ours."""
        version, code, width, height, frames, fps_num, fps_den = HEADER.unpack(header[: HEADER.size])
        if version != HEADER_VERSION or (code & 0x7F) not in _FORMATS or fps_den == 0:
            raise ValueError("not a Bitlane bitstream header")
        return cls(
            layout=_FORMATS[code & 0x7F],
            frames=frames,
            height=height,
            width=width,
            fps=Fraction(fps_num, fps_den),
            bit_depth=10 if code & 0x80 else 8,
        )


class FrameBuffer(Protocol):
    """Frames in shared, sealed memory: ``fd`` is a memfd of exactly ``geometry.nbytes`` bytes."""

    fd: int
    geometry: Geometry

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The bytes, flat and read-only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """``bitstream`` has no header yet; ``encode_s`` ends when it is complete and the device is synchronised."""

    bitstream: bytes
    load_s: float
    setup_s: float
    encode_s: float
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None
    self_reported: Json = None

    @property
    def charged_s(self) -> float:
        """All the time that the submission's own code took."""
        return self.load_s + self.setup_s + self.encode_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """``frames`` is flat uint8 of exactly ``geometry.nbytes`` bytes."""

    frames: npt.NDArray[np.uint8]
    load_s: float
    setup_s: float
    decode_s: float
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None

    @property
    def charged_s(self) -> float:
        """All the time that the submission's own code took."""
        return self.load_s + self.setup_s + self.decode_s


class Codec(Protocol):
    """One codec at work on one clip. Each call stands alone: nothing but the bitstream passes from encode to decode.

    Both raise ``SubmissionError`` with a Fault that has its stage but neither clip nor rate point, and ``WorkerLost``
    when the machinery broke. ``wall_s`` bounds the call.
    """

    layout: Layout

    def encode(self, frames: FrameBuffer, params: Params, *, wall_s: float) -> Encoded: ...

    def decode(self, bitstream: bytes, geometry: Geometry, *, wall_s: float) -> Decoded: ...
