"""Making a suite of one's own from files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from app.domain.errors import ClipUnusable, Conflict, FieldError, InvalidSpec
from app.domain.evaluation import MAX_RAW_CLIP_BYTES, Clip, Suite
from app.evaluator.clips.decode import RawHash, Stream, decode, untagged_matrix
from app.evaluator.clips.manifest import BUILT_IN, MANIFEST, NAME, write_suite
from app.evaluator.frames import PIX_FMTS, Picture


def add_suite(data_dir: Path, name: str, files: Iterable[Path]) -> Suite:
    """Copy the files to ``<data>/suites/<name>``, decode each wholly, and write the manifest; all of it or nothing."""
    sources = _named(name, [Path(file) for file in files])
    suites = data_dir / "suites"
    if (suites / name).exists() or (BUILT_IN / f"{name}.json").exists():
        raise Conflict(f"there is already a suite {name!r}")
    suites.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=suites))
    try:
        room.chmod(0o755)
        suite = Suite(name=name, clips=tuple(_add(room, clip, source) for clip, source in sources.items()))
        write_suite(room / MANIFEST, suite)
        _rename(room, suites / name)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return suite


def _named(name: str, files: Sequence[Path]) -> dict[str, Path]:
    """The clips' names, from their files' names. Raises ``InvalidSpec`` for names that cannot be."""
    errors = []
    if not NAME.fullmatch(name):
        errors.append(FieldError(field="name", message=f"{name!r} does not match {NAME.pattern}"))
    if not files:
        errors.append(FieldError(field="files", message="a suite needs at least one file"))
    named: dict[str, Path] = {}
    for index, file in enumerate(files):
        clip = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("._-")[:64]
        where = f"files.{index}"
        if not NAME.fullmatch(clip):
            errors.append(FieldError(field=where, message=f"no clip name can be made of {file.name!r}"))
        elif clip in named:
            errors.append(FieldError(field=where, message=f"{named[clip]} and {file} would both be clip {clip!r}"))
        elif not file.is_file():
            errors.append(FieldError(field=where, message=f"there is no file {file}"))
        else:
            named[clip] = file
    if errors:
        raise InvalidSpec(errors)
    return named


def _add(room: Path, name: str, source: Path) -> Clip:
    copy = room / f"{name}{source.suffix.lower()}"
    shutil.copyfile(source, copy)
    stream, frames, sha256 = _scan(copy, name)
    with copy.open("rb") as file:
        file_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return Clip(
        name=name,
        file=copy.name,
        file_sha256=file_sha256,
        sha256=sha256,
        width=stream.width,
        height=stream.height,
        frames=frames,
        fps_num=stream.fps.numerator,
        fps_den=stream.fps.denominator,
        pix_fmt=stream.pix_fmt,
        bit_depth=PIX_FMTS[stream.pix_fmt][2],
        matrix=stream.matrix or untagged_matrix(stream.height),
        full_range=stream.full_range,
    )


def _scan(path: Path, name: str) -> tuple[Stream, int, str]:
    """What the file is, how many frames it has, and their hash."""
    first: Stream | None = None
    raw: RawHash | None = None
    frames, nbytes = 0, 0
    with closing(decode(path, name)) as decoded:
        for stream, picture in decoded:
            first = first or stream
            raw = raw or RawHash(stream.pix_fmt)
            raw.add(picture)
            frames, nbytes = frames + 1, nbytes + _bytes(picture)
            if nbytes > MAX_RAW_CLIP_BYTES:
                raise ClipUnusable(f"clip {name!r}: its frames take more than {MAX_RAW_CLIP_BYTES} bytes raw; cut it")
    if first is None or raw is None:
        raise ClipUnusable(f"clip {name!r}: {path.name} has no frames")
    return first, frames, raw.hexdigest()


def _bytes(picture: Picture) -> int:
    return sum(plane.nbytes for plane in picture)


def _rename(room: Path, target: Path) -> None:
    try:
        room.rename(target)
    except OSError as error:
        if target.exists():
            raise Conflict(f"there is already a suite {target.name!r}") from None
        raise ClipUnusable(f"the suite {target.name!r} cannot be written: {error}") from None
