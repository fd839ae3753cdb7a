"""Frames in memory: planes over flat bytes, formats, and the sealed buffers that cross into a jail.

A *plane* is uint8 [T, h, w] (uint16 above 8 bit). A *picture* is the three planes of one frame, each [h, w]: Y, U, V or
R, G, B.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from app.domain.evaluation import Clip
from app.evaluator.codec import Geometry, Layout

Plane: TypeAlias = npt.NDArray[Any]
Planes: TypeAlias = tuple[Plane, Plane, Plane]
Picture: TypeAlias = tuple[Plane, Plane, Plane]

PIX_FMTS = {
    "yuv420p": (False, True, 8),
    "yuv420p10le": (False, True, 10),
    "yuv444p": (False, False, 8),
    "yuv444p10le": (False, False, 10),
    "rgb24": (True, False, 8),
}
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """What the samples of a picture mean. ``matrix`` and ``full_range`` say how its YUV and its RGB belong together."""

    rgb: bool
    subsampled: bool
    bit_depth: int
    matrix: str
    full_range: bool

    @property
    def peak(self) -> int:
        """255 * 2^(bit_depth - 8), the peak of PSNR and SSIM."""
        return 255 << (self.bit_depth - 8)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        return np.uint16 if self.bit_depth > 8 else np.uint8

    def chroma(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the second and third plane."""
        return (-(-height // 2), -(-width // 2)) if self.subsampled else (height, width)


def native_format(clip: Clip) -> Format:
    """The format of the clip's own frames. ``KeyError`` for a pixel format that is not in ``PIX_FMTS``."""
    rgb, subsampled, bit_depth = PIX_FMTS[clip.pix_fmt]
    return Format(rgb=rgb, subsampled=subsampled, bit_depth=bit_depth, matrix=clip.matrix, full_range=clip.full_range)


def coded_format(native: Format, layout: Layout) -> Format:
    """The format in which a codec of that layout sees a clip: same depth, matrix and range."""
    yuv = layout is Layout.YUV420
    return Format(
        rgb=not yuv,
        subsampled=yuv,
        bit_depth=native.bit_depth,
        matrix=native.matrix,
        full_range=native.full_range,
    )


def planes_of(flat: npt.NDArray[np.uint8], geometry: Geometry) -> Planes:
    """The three planes [T, h, w] as views of flat bytes in ``geometry.layout``; R, G, B for both RGB layouts."""
    samples = flat if geometry.bit_depth <= 8 else flat.view("<u2")
    frames, height, width = geometry.frames, geometry.height, geometry.width
    if geometry.layout is Layout.RGB:
        planar = samples.reshape(frames, 3, height, width)
        return planar[:, 0], planar[:, 1], planar[:, 2]
    if geometry.layout is Layout.BGR:
        packed = samples.reshape(frames, height, width, 3)
        return packed[..., 2], packed[..., 1], packed[..., 0]
    half_h, half_w = -(-height // 2), -(-width // 2)
    luma, chroma = frames * height * width, frames * half_h * half_w
    return (
        samples[:luma].reshape(frames, height, width),
        samples[luma : luma + chroma].reshape(frames, half_h, half_w),
        samples[luma + chroma :].reshape(frames, half_h, half_w),
    )


def picture_of(planes: Planes, index: int) -> Picture:
    """One frame: contiguous and read-only, so that each kernel is compiled for one kind of array only."""
    return read_only((planes[0][index], planes[1][index], planes[2][index]))


def read_only(picture: Picture) -> Picture:
    return _read_only(picture[0]), _read_only(picture[1]), _read_only(picture[2])


def _read_only(plane: Plane) -> Plane:
    view = np.ascontiguousarray(plane).view()
    view.flags.writeable = False
    return view


def flat_picture(target: Format, height: int, width: int, fill: int = 0) -> Picture:
    """A picture of that format with the same value in every sample."""
    chroma = target.chroma(height, width)
    return (
        np.full((height, width), fill, target.dtype),
        np.full(chroma, fill, target.dtype),
        np.full(chroma, fill, target.dtype),
    )


def box2(plane: Plane) -> Plane:
    """The rounded mean, half up, of each 2x2 block of [h, w]; at an odd edge of the samples that are there."""
    height, width = plane.shape
    # At an odd edge the last line stands twice: (a + b + a + b + 2) >> 2 is (a + b + 1) >> 1.
    even = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge").astype(np.uint32)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) >> 2).astype(plane.dtype)


class SealedFrames:
    """A ``FrameBuffer``: a memfd of exactly ``geometry.nbytes`` bytes whose size and content nobody can change.

    ``write`` gets writable planes over the new memory and must not keep them: the seal against writing is refused
    while a writable mapping lives. The descriptor closes with the object.
    """

    def __init__(self, geometry: Geometry, write: Callable[[Planes], None]) -> None:
        self.geometry = geometry
        self.fd = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, geometry.nbytes)
        room = mmap.mmap(self.fd, geometry.nbytes)
        write(planes_of(np.frombuffer(room, np.uint8), geometry))
        room.close()
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, ALL_SEALS)
        # Private, since kernels before 6.7 refuse a shared mapping of write-sealed memory even for reading.
        mapped = mmap.mmap(self.fd, geometry.nbytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        self._array = np.frombuffer(mapped, np.uint8)

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The bytes, flat and read-only."""
        return self._array

    @property
    def planes(self) -> Planes:
        return planes_of(self._array, self.geometry)
