"""Video and still files to native planar frames, through PyAV.

Decoding is strict: a file that FFmpeg would mend silently (a lost slice, a cut end) is refused, since frames that were
guessed are not a source to measure against.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from app.domain.errors import ClipUnusable
from app.evaluator.frames import PIX_FMTS, Picture, Plane, box2

# The demuxer is named and not probed, so that a file can never be a playlist which makes FFmpeg open other files.
DEMUXERS = {
    ".y4m": "yuv4mpegpipe",
    ".mp4": "mov",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".264": "h264",
    ".h264": "h264",
    ".265": "hevc",
    ".png": "png_pipe",
    ".jpg": "jpeg_pipe",
    ".jpeg": "jpeg_pipe",
}
STILLS = (".png", ".jpg", ".jpeg")
SCALERS = ("none", "box2")

_FULL_RANGE = {"yuvj420p": "yuv420p", "yuvj444p": "yuv444p"}
# Numbers of ITU-T H.273, matrix coefficients and range, as FFmpeg carries them.
_MATRICES = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}
_UNTAGGED = (0, 2)
_JPEG_RANGE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """What a file says about its frames. ``matrix`` is None where it says nothing."""

    width: int
    height: int
    pix_fmt: str
    full_range: bool
    matrix: str | None
    fps: Fraction


def untagged_matrix(height: int) -> str:
    """The matrix of a clip that names none: BT.709 from 720 lines on, else BT.601."""
    return "bt709" if height >= 720 else "bt601"


def decode(path: Path, name: str) -> Generator[tuple[Stream, Picture], None, None]:
    """The file's frames in order, in its own pixel format.

    Raises ``ClipUnusable``, naming the clip ``name`` and the fact, for a file that is not wholly readable, has no
    frames, changes its format midway, or has a pixel format that is not supported.
    """
    demuxer = DEMUXERS.get(path.suffix.lower())
    if demuxer is None:
        raise _bad(name, f"{path.name} is of no known kind ({', '.join(DEMUXERS)})")
    try:
        with av.open(str(path), format=demuxer) as container:
            yield from _frames(container, path, name)
    except av.error.FFmpegError as error:
        raise _bad(name, f"{path.name} is corrupt or cut off: {error.strerror}") from None


def _frames(container: Any, path: Path, name: str) -> Generator[tuple[Stream, Picture], None, None]:
    if not container.streams.video:
        raise _bad(name, f"{path.name} has no video")
    video = container.streams.video[0]
    video.codec_context.options = {"err_detect": "explode"}
    video.codec_context.thread_count = 1
    first: Stream | None = None
    packets, end = 0, 0
    for packet in container.demux(video):
        if packet.size:
            packets, end = packets + 1, (packet.pos or 0) + packet.size
        for frame in packet.decode():
            stream = _stream(frame, video, path, name)
            first = first or stream
            if frame.is_corrupt:
                raise _bad(name, f"{path.name} is corrupt")
            if (stream.width, stream.height, stream.pix_fmt) != (first.width, first.height, first.pix_fmt):
                raise _bad(name, f"its frames change from {_shape(first)} to {_shape(stream)}")
            yield first, _picture(frame, stream.pix_fmt)
    if first is None:
        raise _bad(name, f"{path.name} has no frames")
    if packets < video.frames:
        raise _bad(name, f"{path.name} is cut off: it announces {video.frames} frames and has {packets}")
    # FFmpeg drops an incomplete last frame of a y4m file without a word.
    if container.format.name == "yuv4mpegpipe" and end < path.stat().st_size:
        raise _bad(name, f"{path.name} is cut off: its last frame is incomplete")


def _bad(name: str, fact: str) -> ClipUnusable:
    return ClipUnusable(f"clip {name!r}: {fact}")


def _shape(stream: Stream) -> str:
    return f"{stream.width}x{stream.height} {stream.pix_fmt}"


def _stream(frame: Any, video: Any, path: Path, name: str) -> Stream:
    own = frame.format.name
    pix_fmt = _FULL_RANGE.get(own, own)
    if pix_fmt not in PIX_FMTS:
        raise _bad(name, f"pixel format {own} is not supported ({', '.join([*PIX_FMTS, *_FULL_RANGE])} are)")
    space = int(frame.colorspace)
    if pix_fmt != "rgb24" and space not in _MATRICES and space not in _UNTAGGED:
        raise _bad(name, f"its colour matrix (number {space} of ITU-T H.273) is not supported")
    return Stream(
        width=frame.width,
        height=frame.height,
        pix_fmt=pix_fmt,
        full_range=pix_fmt == "rgb24" or own in _FULL_RANGE or int(frame.color_range) == _JPEG_RANGE,
        matrix=None if pix_fmt == "rgb24" else _MATRICES.get(space),
        fps=Fraction(25) if path.suffix.lower() in STILLS else _rate(video, path, name),
    )


def _rate(video: Any, path: Path, name: str) -> Fraction:
    """Frames per second as the file states them; FFmpeg itself takes 25 where a y4m file says that it does not know."""
    rate = video.average_rate or video.guessed_rate
    if path.suffix.lower() == ".y4m":
        with path.open("rb") as file:
            told = [word[1:] for word in file.readline(1024).split() if word[:1] == b"F"]
        if not told or told[0].startswith(b"0:"):
            rate = None
    if not rate:
        raise _bad(name, f"{path.name} does not state its frame rate")
    return Fraction(rate)


def _picture(frame: Any, pix_fmt: str) -> Picture:
    rgb, _, bit_depth = PIX_FMTS[pix_fmt]
    if rgb:
        packed = _rows(frame.planes[0], frame.width * 3).reshape(frame.height, frame.width, 3)
        return packed[..., 0].copy(), packed[..., 1].copy(), packed[..., 2].copy()
    size = 2 if bit_depth > 8 else 1
    y, u, v = (_rows(plane, plane.width * size) for plane in frame.planes)
    return (y, u, v) if size == 1 else (y.view("<u2"), u.view("<u2"), v.view("<u2"))


def _rows(plane: Any, row_bytes: int) -> Plane:
    """The plane's rows without FFmpeg's padding, as a copy that outlives the frame."""
    padded = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return padded[:, :row_bytes].copy()


def scaled(picture: Picture, scaler: str) -> Picture:
    """The picture after the manifest's scaler. Raises ``KeyError`` for a scaler that is not in ``SCALERS``."""
    scale = {"none": lambda plane: plane, "box2": box2}[scaler]
    y, u, v = picture
    return scale(y), scale(u), scale(v)


class RawHash:
    """sha256 of raw frames: for each frame Y, then U, then V, little-endian; rgb24 packed as R, G, B.

    That is what ``ffmpeg -f rawvideo`` writes in the clip's own pixel format, so that anyone can check it.
    """

    def __init__(self, pix_fmt: str) -> None:
        self._packed = PIX_FMTS[pix_fmt][0]
        self._sha256 = hashlib.sha256()

    def add(self, picture: Picture) -> None:
        if self._packed:
            self._sha256.update(np.stack(picture, axis=-1).data)
            return
        for plane in picture:
            self._sha256.update(np.ascontiguousarray(plane).data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def wanted(path: Path, name: str, scaler: str, stop: int | None) -> Generator[tuple[Stream, Picture], None, None]:
    """The scaled frames up to ``stop`` (None: to the end, which also checks the end of the file)."""
    with closing(decode(path, name)) as frames:
        for index, (stream, picture) in enumerate(frames):
            if stop is not None and index >= stop:
                return
            yield stream, scaled(picture, scaler)
