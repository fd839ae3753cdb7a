"""VMAF and VMAF-NEG of luma, by Netflix's libvmaf, in a process of its own: an ffmpeg that has it.

Models ``vmaf_v0.6.1`` and ``vmaf_v0.6.1neg``, as they come with libvmaf; the mean over frames. NEG takes no credit for
enhancement (sharpening, contrast) that makes a picture look better than its source. Nothing is scaled: a model trained
for 1080p is applied to the frames as they are.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from io import FileIO
from typing import Any

from app.evaluator.frames import Picture
from app.evaluator.metrics.base import FramePair, Scores

NAMES = ("vmaf", "vmaf_neg")
ABSENT = "no ffmpeg with libvmaf on this machine: install the package imageio-ffmpeg, or an ffmpeg that has it"
_MODELS = r"version=vmaf_v0.6.1\:name=vmaf|version=vmaf_v0.6.1neg\:name=vmaf_neg"
_END_S = 300.0
_IDLE_S = 60.0


@cache
def ffmpeg_with_libvmaf() -> str | None:
    """The program, if there is one: the package's before the system's."""
    for program in filter(None, (_packaged(), shutil.which("ffmpeg"))):
        with suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run([program, "-hide_banner", "-filters"], capture_output=True, text=True, timeout=30)
            if " libvmaf " in told.stdout:
                return program
    return None


def _packaged() -> str | None:
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    with suppress(RuntimeError):
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    return None


class Vmaf:
    """The metric ``vmaf``, which gives ``vmaf`` and ``vmaf_neg``."""

    def __init__(self, peak: int) -> None:
        self._bit_depth = 8 + (peak // 255).bit_length() - 1
        self._running: _Process | None = None
        self._missing = None if ffmpeg_with_libvmaf() else ABSENT

    def add(self, pair: FramePair) -> None:
        if self._missing is not None:
            return
        source, decoded = pair.yuv
        if self._running is None:
            self._running = _Process(ffmpeg_with_libvmaf() or "", _pix_fmt(source, self._bit_depth), source[0].shape)
        try:
            self._running.add(source, decoded)
        except OSError:
            # It has given up; what it said comes with its end.
            self._missing = self._running.end()[1] or "libvmaf ended before its input did"

    def result(self) -> Scores:
        frames: list[dict[str, float]] = []
        if self._missing is None and self._running is not None:
            frames, self._missing = self._running.end()
        if self._missing is not None or not frames:
            reason = self._missing or "libvmaf gave no values"
            return Scores(missing=dict.fromkeys(NAMES, reason))
        series = {name: [frame[name] for frame in frames] for name in NAMES}
        return Scores(
            metrics={name: math.fsum(values) / len(values) for name, values in series.items()},
            worst_frame={name: min(values) for name, values in series.items()},
        )


def _pix_fmt(picture: Picture, bit_depth: int) -> str:
    subsampled = picture[0].shape != picture[1].shape or picture[0].shape == (1, 1)
    return ("yuv420p" if subsampled else "yuv444p") + (f"{bit_depth}le" if bit_depth > 8 else "")


class _Process:
    """An ffmpeg that reads both videos from pipes as they come, so that no clip is held twice."""

    def __init__(self, program: str, pix_fmt: str, size: tuple[int, ...]) -> None:
        height, width = size
        # Raw video needs no probing; while it probes one input it would not read the other.
        raw = ("-probesize", "32", "-analyzeduration", "0", "-f", "rawvideo", "-pix_fmt", pix_fmt)
        pipes = [os.pipe() for _ in range(2)]
        inputs = [part for reader, _ in pipes for part in (*raw, "-s", f"{width}x{height}", "-i", f"pipe:{reader}")]
        graph = f"[0:v][1:v]libvmaf=model='{_MODELS}':n_threads=1:log_fmt=json:log_path=/dev/stdout"
        command = [program, "-hide_banner", "-nostdin", "-loglevel", "error", *inputs, "-lavfi", graph]
        try:
            self._process = subprocess.Popen(
                [*command, "-f", "null", "-"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[reader for reader, _ in pipes],
            )
        finally:
            for reader, writer in pipes:
                os.close(reader)
                os.set_blocking(writer, False)
        # Files, so that an abandoned one is closed, and the process behind it ends.
        self._decoded, self._source = (FileIO(writer, "wb") for _, writer in pipes)

    def add(self, source: Picture, decoded: Picture) -> None:
        """Raises ``OSError`` if the process has ended or takes nothing."""
        for pipe, picture in ((self._decoded, decoded), (self._source, source)):
            for plane in picture:
                _write(pipe, memoryview(plane.tobytes()))

    def end(self) -> tuple[list[dict[str, float]], str | None]:
        """The values of each frame, or why there are none."""
        self._source.close()
        self._decoded.close()
        try:
            told, complaint = self._process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return [], f"libvmaf was not done within {_END_S:g} s"
        if self._process.returncode != 0:
            lines = complaint.decode(errors="replace").strip().splitlines() or ["no reason given"]
            return [], f"libvmaf failed: {lines[-1][:200]}"
        try:
            log: dict[str, Any] = json.loads(told)
            return [frame["metrics"] for frame in log["frames"]], None
        except (ValueError, KeyError) as error:
            return [], f"libvmaf gave no readable values: {error}"


def _write(pipe: FileIO, left: memoryview) -> None:
    ready = select.poll()
    ready.register(pipe, select.POLLOUT)
    while left:
        if not ready.poll(_IDLE_S * 1000):
            raise TimeoutError(f"libvmaf took nothing for {_IDLE_S:g} s")
        left = left[pipe.write(left) or 0 :]
