"""The two worlds in which a cheat is played: the naive evaluator, and the service's own way through the jail."""

from __future__ import annotations

import glob
import json
import os
import secrets
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.adapters.executors.jailed import JailedCodec
from app.domain.evaluation import FrameRange, Params, Suite
from app.domain.job import Blame, Fault, JobSpec, Limits
from app.evaluator import pipeline
from app.evaluator.clips.add import add_suite
from app.evaluator.clips.catalogue import SuiteCatalogue
from app.evaluator.clips.source import ClipSource
from app.evaluator.codec import Decoded, Encoded, FrameBuffer, Geometry, Layout
from app.ports import Failed
from app.sandbox.supervisor import Supervisor
from tests.evaluator.pictures import write_y4m
from tests.sandbox.integrity.cheat import FLICKER, Cheat, Outcome, Seen, gained

NAIVE = Path(__file__).with_name("naive.py")
LIMITS = Limits(wall_s=8, memory_bytes=512 << 20, output_bytes=8 << 20, scratch_bytes=16 << 20, log_bytes=64 << 10)
FRAMES = FrameRange(count=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The suites by name, and where their clips lie."""

    data_dir: Path
    suites: dict[str, Suite]
    source: ClipSource

    def path_of(self, cheat: Cheat) -> Path:
        return self.data_dir / "suites" / cheat.suite / f"{cheat.clips[0]}.y4m"


def make_world(folder: Path) -> World:
    """``noise`` and its twin ``copy`` (64x48, 3 frames), and small clips whose first samples differ."""
    paths = [folder / f"{name}.y4m" for name in ("noise", "copy", *FLICKER)]
    for number, path in enumerate(paths):
        if path.stem in FLICKER:
            write_y4m(path, frames=1, width=32, height=32, seed=number)
        else:
            write_y4m(path, seed=1)
    suite = add_suite(folder, "cheats", paths)
    for path in paths:
        path.unlink()
    suites = {"cheats": suite, "demo": SuiteCatalogue(folder).get("demo")}
    return World(data_dir=folder, suites=suites, source=ClipSource(folder))


def new_mark() -> str:
    return f"bl{secrets.token_hex(5)}"


def placed(text: str, names: dict[str, Any]) -> str:
    """The source with the names of one world; all but the mark, which stands inside of strings, as literals."""
    for name, value in names.items():
        text = text.replace(f"@{name}@", value if name == "MARK" else repr(value))
    return text


def naive_names(cheat: Cheat, mark: str, folder: Path) -> dict[str, Any]:
    site = folder / "site"
    site.mkdir(exist_ok=True)
    return {
        "MARK": mark,
        "CLIP": str(folder / "clips" / f"{cheat.clips[0]}.y4m"),
        "SITE": str(site),
        "TORCH": str(site),
        "STDLIB": str(site),
        "SHARED": ["clip.y4m"],
        "BIG": ["big.bin"],
    }


def jailed_names(cheat: Cheat, mark: str, world: World) -> dict[str, Any]:
    site = Path(sysconfig.get_paths()["purelib"])
    torch_folder = Path(torch.__file__).parent
    largest = sorted((torch_folder / "include").rglob("*.h"), key=lambda path: -path.stat().st_size)
    return {
        "MARK": mark,
        "CLIP": str(world.path_of(cheat)),
        "SITE": str(site),
        "TORCH": str(torch_folder),
        "STDLIB": str(Path(os.__file__).parent),
        "SHARED": [str(Path(sys.prefix, "pyvenv.cfg")), str(torch_folder / "version.py"), os.__file__, sys.executable],
        "BIG": [str(path) for path in largest[:1]] + [os.__file__.replace("os.py", "turtle.py")],
    }


@contextmanager
def unchanged(shared: list[str], big: list[str]) -> Iterator[None]:
    """What cheats may change of the machine is as it was, and no page of the large files is cached at the start."""
    before = {path: os.stat(path) for path in shared}
    name = socket.gethostname()
    for path in big:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    try:
        yield
    finally:
        for path, was in before.items():
            now = os.stat(path)
            if now.st_mtime_ns != was.st_mtime_ns:
                os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
            if now.st_mode != was.st_mode:
                os.chmod(path, was.st_mode)
        if socket.gethostname() != name:
            socket.sethostname(name)


def sweep(mark: str) -> None:
    """Remove what a cheat may have left in the places that it knows."""
    site = sysconfig.get_paths()["purelib"]
    folders = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", str(Path.home()), site, str(Path(torch.__file__).parent)]
    for folder in folders:
        for path in glob.glob(f"{folder}/*{mark}*"):
            with suppress(OSError):
                os.unlink(path)


def play_naively(cheats: Iterable[Cheat], world: World, folder: Path) -> dict[str, Outcome]:
    """What the naive evaluator believes of each cheat, by name; all in one process tree."""
    work, home = folder / "work", folder / "home"
    for path in (work, home, folder / "clips"):
        path.mkdir()
    clips: dict[str, dict[str, Any]] = {}
    asked = []
    for cheat in cheats:
        mark = new_mark()
        names = naive_names(cheat, mark, folder)
        for clip in cheat.clips:
            if clip not in clips:
                clips[clip] = _clip_files(world, cheat.suite, clip, folder / "clips")
        told = {
            name: getattr(cheat, name) for name in ("name", "mode", "judge", "contract", "clips", "points", "device")
        }
        sources = {"encoder": placed(cheat.encoder, names), "decoder": placed(cheat.decoder, names)}
        asked.append({**told, **sources, "mark": mark})
    environ = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "site")}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(NAIVE)],
            input=json.dumps({"cheats": asked, "clips": clips}),
            capture_output=True,
            text=True,
            cwd=work,
            env=environ,
            check=True,
            timeout=300,
        )
    finally:
        for one in asked:
            sweep(str(one["mark"]))
    return {row["name"]: _outcome(row) for row in json.loads(done.stdout)}


def _clip_files(world: World, suite: str, name: str, folder: Path) -> dict[str, Any]:
    """The clip's frames as files, in each layout and as a y4m."""
    clip = next(clip for clip in world.suites[suite].clips if clip.name == name)
    told: dict[str, Any] = {"height": clip.height, "width": clip.width}
    for layout in (Layout.RGB, Layout.BGR, Layout.YUV420):
        opened = world.source.open(suite, clip, FRAMES, layout)
        path = folder / f"{name}.{layout.value}"
        opened.buffer.array.tofile(path)
        told |= {"frames": opened.frames, layout.value: str(path)}
        if layout is Layout.YUV420:
            told["y4m"] = str(folder / f"{name}.y4m")
            header = f"YUV4MPEG2 W{clip.width} H{clip.height} F25:1 Ip A1:1 C420jpeg\n".encode()
            frames = zip(*opened.buffer.planes, strict=True)
            body = b"".join(b"FRAME\n" + b"".join(plane.tobytes() for plane in frame) for frame in frames)
            Path(told["y4m"]).write_bytes(header + body)
    return told


def _outcome(row: dict[str, Any]) -> Outcome:
    return Outcome(calls=tuple(Seen(**call) for call in row["calls"]), left=row["left"], error=row["error"])


@dataclass
class Watching:
    """A ``Codec`` that keeps what its own codec was given and gave."""

    codec: JailedCodec
    sources: list[np.ndarray] = field(default_factory=list)
    decoded: list[np.ndarray] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return self.codec.layout

    def encode(self, frames: FrameBuffer, params: Params, *, wall_s: float) -> Encoded:
        self.sources.append(frames.array)
        return self.codec.encode(frames, params, wall_s=wall_s)

    def decode(self, bitstream: bytes, geometry: Geometry, *, wall_s: float) -> Decoded:
        decoded = self.codec.decode(bitstream, geometry, wall_s=wall_s)
        self.decoded.append(np.array(decoded.frames))
        return decoded


@dataclass(frozen=True, kw_only=True, slots=True)
class Jailed:
    """What the service measured. ``marked`` counts what still bears the mark when all calls have ended."""

    outcome: Outcome
    fault: Fault | None
    points: tuple[Any, ...]

    @property
    def blame(self) -> Blame | None:
        return None if self.fault is None else self.fault.blame


def wrong(cheat: Cheat, played: Jailed) -> str | None:
    """In words what should not be; None if the service measured what is there, or named the submission's fault."""
    got = gained(cheat, played.outcome)
    if got is not None:
        return got
    if played.fault is None:
        points, expected = len(played.points), len(cheat.clips) * cheat.points
        return None if points == expected else f"{points} points instead of {expected}"
    right = played.blame in (Blame.CODE, Blame.LIMIT) and played.fault.error_type.value in cheat.faults
    return None if right else str(played.fault)


def play_jailed(cheat: Cheat, supervisor: Supervisor, world: World, *, limits: Limits = LIMITS) -> Jailed:
    """One job through the pipeline. Raises ``WorkerLost`` if the cheat breaks the service."""
    mark = new_mark()
    names = jailed_names(cheat, mark, world)
    with unchanged(names["SHARED"], names["BIG"]):
        return _play(cheat, supervisor, world, limits, mark, names)


def _play(
    cheat: Cheat, supervisor: Supervisor, world: World, limits: Limits, mark: str, names: dict[str, Any]
) -> Jailed:
    codec = Watching(
        JailedCodec(
            supervisor,
            encoder=placed(cheat.encoder, names),
            decoder=placed(cheat.decoder, names),
            contract=cheat.contract,
            frame_format=cheat.frame_format,
            limits=limits,
        )
    )
    spec = JobSpec(
        encoder_sha256="e" * 64,
        decoder_sha256="d" * 64,
        contract=cheat.contract,
        body_sha256="b" * 64,
        frame_format=cheat.frame_format,
        suite=cheat.suite,
        clips=cheat.clips,
        frames=FRAMES,
        rate_points=tuple({"point": point} for point in range(cheat.points)),
        metrics=("psnr",),
        limits=limits,
    )
    try:
        found = pipeline.evaluate(spec, world.suites[cheat.suite], codec, world.source, lambda step: None, {})
        left = len(bearing(mark))
    finally:
        sweep(mark)
    points = found.report.points if found.report is not None else ()
    rows = zip(points, codec.sources, codec.decoded, strict=False)
    outcome = Outcome(calls=tuple(_seen(*row) for row in rows), left=left)
    return Jailed(outcome=outcome, fault=found.fault if isinstance(found, Failed) else None, points=points)


def _seen(point: Any, truth: np.ndarray, decoded: np.ndarray) -> Seen:
    differs = np.flatnonzero(truth != decoded)
    return Seen(
        raw_bytes=truth.size,
        # The header of 16 bytes holds nothing of the frames, and would hide small channels.
        size_bytes=point.bitstream_bytes - 16,
        exact=point.lossless,
        # Flat grey is near the chroma of many a clip.
        psnr=point.metrics.get("psnr_y", 0.0),
        prefix_bytes=int(differs[0]) if differs.size else truth.size,
        first_agrees=int(decoded[0]) == int(truth[0]) % 16,
        encode_s=point.encode_s,
        decode_s=point.decode_s,
    )


def bearing(mark: str) -> list[str]:
    """Threads and processes of the whole machine that are named so."""
    found = []
    for path in glob.glob("/proc/[0-9]*/task/[0-9]*/comm"):
        with suppress(OSError):
            if Path(path).read_text(errors="replace").strip() == mark:
                found.append(path)
    return found
