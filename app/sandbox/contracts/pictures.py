"""Frames out of files that a legacy decoder wrote, read in its own jail: images, arrays, videos. Always BGR uint8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.sandbox.faults import ContractError

_VIDEOS = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".y4m", ".ivf", ".h264", ".hevc", ".obu"})


def read(path: Path) -> list[Any]:
    """Every frame in the file, each [H, W, 3]. Raises ``ContractError`` if it is none of the kinds that are known."""
    suffix = path.suffix.lower()
    # The suffix says what to try first; a video in a file that we named as an image is a video all the same.
    readers = [_array] if suffix == ".npy" else [_video, _image] if suffix in _VIDEOS else [_image, _video]
    reasons = []
    for reader in readers:
        try:
            return reader(path)
        except (OSError, ValueError) as error:
            reasons.append(str(error))
    raise ContractError("invalid_output", f"{path.name}, written by the decoder, cannot be read: {'; '.join(reasons)}")


def _array(path: Path) -> list[Any]:
    import numpy

    loaded = numpy.load(path, allow_pickle=False)
    return list(loaded) if loaded.ndim == 4 else [loaded]


def _image(path: Path) -> list[Any]:
    import numpy
    import PIL.Image

    with PIL.Image.open(path) as image:
        return [numpy.asarray(image.convert("RGB"))[:, :, ::-1]]


def _video(path: Path) -> list[Any]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
