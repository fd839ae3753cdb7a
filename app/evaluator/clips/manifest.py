"""Suites as JSON files, and where their clips lie. Needs neither numpy nor PyAV, for the API process reads them too."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

from app.domain.errors import ClipUnusable
from app.domain.evaluation import Clip, FrameRange, Suite

MANIFEST = "suite.json"
BUILT_IN = Path(__file__).parent.parent / "suites"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_REQUIRED = {"name", "file", "file_sha256", "sha256", "width", "height", "frames"}
_TYPES = {field.name: {"str": str, "int": int, "bool": bool}[str(field.type)] for field in fields(Clip)}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_suite(path: Path) -> Suite:
    """The suite in a manifest file. ``ClipUnusable`` naming the file and the fact if it is not a good manifest."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        suite = Suite(
            name=stored["name"],
            description=stored.get("description", ""),
            clips=tuple(_clip(entry) for entry in stored["clips"]),
        )
    except KeyError as error:
        raise ClipUnusable(f"the manifest {path} has no {error.args[0]!r}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ClipUnusable(f"the manifest {path} cannot be used: {error}") from None
    if len({clip.name for clip in suite.clips}) != len(suite.clips):
        raise ClipUnusable(f"the manifest {path} names a clip twice")
    return suite


def write_suite(path: Path, suite: Suite) -> None:
    """Write a manifest that ``read_suite`` reads back."""
    path.write_text(json.dumps(asdict(suite), indent=2) + "\n", "utf-8")


def _clip(entry: dict[str, Any]) -> Clip:
    if missing := _REQUIRED - entry.keys():
        raise ValueError(f"clip {entry.get('name')!r} has no {', '.join(sorted(missing))}")
    if unknown := entry.keys() - _TYPES.keys():
        raise ValueError(f"clip {entry['name']!r} has unknown fields {', '.join(sorted(unknown))}")
    for key, value in entry.items():
        if type(value) is not _TYPES[key]:
            raise ValueError(f"clip {entry['name']!r}: {key} must be {_TYPES[key].__name__}, it is {value!r}")
    clip = Clip(**entry)
    if not NAME.fullmatch(clip.name):
        raise ValueError(f"{clip.name!r} is not a clip name")
    if not (_SHA256.fullmatch(clip.sha256) and _SHA256.fullmatch(clip.file_sha256)):
        raise ValueError(f"clip {clip.name!r}: sha256 and file_sha256 must be 64 lower-case hex digits")
    if min(clip.width, clip.height, clip.frames, clip.fps_num, clip.fps_den) < 1:
        raise ValueError(f"clip {clip.name!r}: width, height, frames and fps must be positive")
    return clip


def locate(data_dir: Path, suite: str, clip: Clip) -> Path:
    """Where the clip's file is: beside its manifest, or in an installed package, which is not imported.

    Raises ``ClipUnusable`` if it is not there, or if the manifest points out of its folder.
    """
    package, separator, inside = clip.file.partition(":")
    if separator:
        root = _package_folder(package, clip)
    else:
        root, inside = data_dir / "suites" / suite, clip.file
    relative = PurePosixPath(inside)
    if relative.is_absolute() or ".." in relative.parts:
        raise ClipUnusable(f"clip {clip.name!r}: its file {clip.file!r} lies outside of its suite")
    path = root / relative
    if not path.is_file():
        raise ClipUnusable(f"clip {clip.name!r}: there is no file {path}")
    return path


def _package_folder(package: str, clip: Clip) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ClipUnusable(f"clip {clip.name!r}: the package {package!r}, which carries it, is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def raw_bytes(clip: Clip, frames: FrameRange) -> int:
    """Bytes of the frames in use, in the clip's native format: what ``MAX_RAW_CLIP_BYTES`` bounds."""
    return clip.bytes_per_frame * frames.length(clip.frames)
