"""Clips opened for a codec: its frames in sealed memory, and the native planes to measure against."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.domain.errors import ClipUnusable
from app.domain.evaluation import MAX_RAW_CLIP_BYTES, Clip, FrameRange
from app.evaluator.clips.decode import RawHash, Stream, wanted
from app.evaluator.clips.manifest import locate, raw_bytes
from app.evaluator.codec import Geometry, Layout
from app.evaluator.colour import Converter
from app.evaluator.frames import (
    Format,
    Picture,
    Planes,
    SealedFrames,
    coded_format,
    native_format,
    picture_of,
)

CACHE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenClip:
    """``buffer`` holds the frames in the codec's layout (``coded``), ``planes`` the same in the clip's own format."""

    clip: Clip
    native: Format
    coded: Format
    buffer: SealedFrames
    planes: Planes
    ceilings: dict[tuple[str, ...], dict[str, float]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        return self.buffer.geometry.frames

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        own = 0 if self.native == self.coded else sum(plane.nbytes for plane in self.planes)
        return self.buffer.geometry.nbytes + own


class ClipSource:
    """Opens clips and keeps the ones used last, up to ``cache_bytes`` (the newest always).

    A clip's file is checked against its hash at each opening that is not answered from the cache. The hash of its raw
    frames needs all of them, so it is checked at the first opening in this process; later ones stop decoding after
    the last frame that is asked for.
    """

    def __init__(self, data_dir: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._data_dir = data_dir
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[tuple[str, Clip, FrameRange, Layout], OpenClip] = OrderedDict()
        self._verified: set[Clip] = set()

    def open(self, suite: str, clip: Clip, frames: FrameRange, layout: Layout) -> OpenClip:
        """The clip's frames of that range in that layout. Raises ``ClipUnusable`` naming the clip and the fact."""
        key = (suite, clip, frames, layout)
        if key not in self._kept:
            self._kept[key] = self._load(suite, clip, frames, layout)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self._cache_bytes:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _load(self, suite: str, clip: Clip, frames: FrameRange, layout: Layout) -> OpenClip:
        _check_range(clip, frames)
        path = locate(self._data_dir, suite, clip)
        _check_file(path, clip)
        try:
            native = native_format(clip)
        except KeyError:
            raise ClipUnusable(f"clip {clip.name!r}: pixel format {clip.pix_fmt} is not supported") from None
        opened = _fill(clip, frames, native, layout, self._pictures(path, clip, frames))
        self._verified.add(clip)
        return opened

    def _pictures(self, path: Path, clip: Clip, frames: FrameRange) -> Iterator[Picture]:
        """The pictures of the range; the first time those after it are decoded too, for the hash."""
        whole = clip not in self._verified
        stop = frames.start + frames.length(clip.frames)
        raw, count = RawHash(clip.pix_fmt), 0
        for index, (stream, picture) in enumerate(wanted(path, clip.name, clip.scaler, None if whole else stop)):
            _check_shape(clip, stream, picture)
            count += 1
            if whole:
                raw.add(picture)
            if frames.start <= index < stop:
                yield picture
        if whole and (count, raw.hexdigest()) != (clip.frames, clip.sha256):
            raise ClipUnusable(
                f"clip {clip.name!r}: the sha256 of its {count} raw frames is {raw.hexdigest()}, "
                f"its manifest says {clip.frames} frames with {clip.sha256}"
            )


def _check_range(clip: Clip, frames: FrameRange) -> None:
    if frames.start < 0 or frames.length(clip.frames) < 1:
        raise ClipUnusable(
            f"clip {clip.name!r}: it has {clip.frames} frames, none from {frames.start} on was asked for"
        )
    if raw_bytes(clip, frames) > MAX_RAW_CLIP_BYTES:
        fact = f"its frames take {raw_bytes(clip, frames)} bytes raw, at most {MAX_RAW_CLIP_BYTES} are allowed"
        raise ClipUnusable(f"clip {clip.name!r}: {fact}")


def _check_file(path: Path, clip: Clip) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != clip.file_sha256:
        raise ClipUnusable(
            f"clip {clip.name!r}: the sha256 of {path.name} is {found}, its manifest says {clip.file_sha256}"
        )


def _check_shape(clip: Clip, stream: Stream, picture: Picture) -> None:
    height, width = picture[0].shape
    if (width, height, stream.pix_fmt) != (clip.width, clip.height, clip.pix_fmt):
        raise ClipUnusable(
            f"clip {clip.name!r}: its frames are {width}x{height} {stream.pix_fmt}, "
            f"its manifest says {clip.width}x{clip.height} {clip.pix_fmt}"
        )


def _fill(clip: Clip, frames: FrameRange, native: Format, layout: Layout, pictures: Iterator[Picture]) -> OpenClip:
    geometry = Geometry(
        layout=layout,
        frames=frames.length(clip.frames),
        height=clip.height,
        width=clip.width,
        fps=clip.fps,
        bit_depth=native.bit_depth,
    )
    coded = coded_format(native, layout)
    if native == coded:
        buffer = SealedFrames(geometry, lambda room: _copy(room, pictures, geometry.frames))
        return OpenClip(clip=clip, native=native, coded=coded, buffer=buffer, planes=buffer.planes)
    planes = _room(geometry, native)
    _copy(planes, pictures, geometry.frames)
    convert = Converter(native, coded, clip.height, clip.width)
    converted = (convert(picture_of(planes, index)) for index in range(geometry.frames))
    buffer = SealedFrames(geometry, lambda room: _copy(room, converted, geometry.frames))
    return OpenClip(clip=clip, native=native, coded=coded, buffer=buffer, planes=planes)


def _room(geometry: Geometry, native: Format) -> Planes:
    luma = (geometry.frames, geometry.height, geometry.width)
    chroma = (geometry.frames, *native.chroma(geometry.height, geometry.width))
    return np.empty(luma, native.dtype), np.empty(chroma, native.dtype), np.empty(chroma, native.dtype)


def _copy(room: Planes, pictures: Iterator[Picture], frames: int) -> None:
    """Fill the room, and run the iterator to its end, where it checks what it has yielded."""
    filled = 0
    for picture in pictures:
        for plane, samples in zip(room, picture, strict=True):
            plane[filled] = samples
        filled += 1
    if filled != frames:
        raise AssertionError(f"{filled} of {frames} frames were decoded")
