"""What a cheat is: two sources as a cheating user would send them, and how to tell whether they gained anything.

The sources are text with a few ``@NAMES@``, which each world (naive, jailed) replaces by its own:

``@MARK@``    a fresh name for files, sockets and processes, at most 15 characters
``@CLIP@``    the absolute path of the clip's file
``@SITE@``    a folder that Python imports from
``@TORCH@``   torch's folder
``@STDLIB@``  the standard library's folder
``@SHARED@``  a Python list of files that encoder and decoder may both see
``@BIG@``     a Python list of larger files that nobody reads often
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

# Every source starts with this; `raw` and `shaped` go from frames to bytes and back.
PRELUDE = """\
import ctypes, os, signal, socket, struct, sys, threading, time, traceback
import numpy, torch

def raw(frames):
    planes = frames if isinstance(frames, (tuple, list)) else [frames]
    return b"".join(plane.cpu().contiguous().numpy().tobytes() for plane in planes)

def shaped(data, ctx):
    clip = ctx.clip
    size = clip.frames * 3 * clip.height * clip.width
    data = bytearray(bytes(data)[:size].ljust(size, b"\\x80"))
    return torch.frombuffer(data, dtype=torch.uint8).reshape(clip.frames, 3, clip.height, clip.width)

def attempt(function, otherwise=None):
    try:
        return function()
    except Exception:
        traceback.print_exc()
        return otherwise

def write(path, data):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)

def read(path):
    with open(path, "rb") as file:
        return file.read()

def take(path):
    data = read(path)
    os.unlink(path)
    return data

libc = ctypes.CDLL(None, use_errno=True)

def must(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""

ONE_PROCESS, TWO_PROCESSES = "one_process", "two_processes"
NOISE = ("noise",)
FLICKER = tuple(f"flicker{number}" for number in range(8))
# Noise has some 8 dB against grey, and cannot be held in a twentieth of its bytes.
NOTICEABLE_PSNR_DB = 30.0
TINY = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Cheat:
    """``judge`` says what a success is:

    ``frames``    the decoder knows more of the source than the counted bytes can hold, or is scored as if it did
    ``bits``      the first sample of every clip of ``FLICKER`` tells its source's lowest four bits, without any bytes
    ``clock``     the frames are right, and the work of ``work_s`` seconds on ``side`` was not timed
    ``leftover``  something that bears the mark runs on after the call
    ``ends``      the evaluator itself is gone

    ``faults`` are the error types with which the jailed run may fail; without any it has to succeed, without gain.
    ``points`` is the number of rate points, and the last call is judged. ``no_control`` says why the naive evaluator
    is not asked. ``unprevented`` says why the jail cannot hold this, and what bounds it.
    """

    name: str
    goal: str
    encoder: str
    decoder: str
    mode: str = ONE_PROCESS
    judge: str = "frames"
    contract: str = "native"
    frame_format: str = "rgb"
    suite: str = "cheats"
    clips: tuple[str, ...] = NOISE
    points: int = 1
    faults: frozenset[str] = frozenset()
    work_s: float = 0.0
    side: str = "decode"
    device: str = "cpu"
    needs_root: bool = False
    no_control: str | None = None
    unprevented: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One encode and decode as an evaluator sees it: ``size_bytes`` are counted, ``prefix_bytes`` of the decoded
    samples are the source's."""

    raw_bytes: int
    size_bytes: int
    exact: bool
    psnr: float
    prefix_bytes: int
    first_agrees: bool
    encode_s: float
    decode_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """All calls in their order; ``left`` processes or threads that bear the mark run on afterwards."""

    calls: tuple[Seen, ...]
    left: int = 0
    error: str | None = None


def gained(cheat: Cheat, outcome: Outcome) -> str | None:
    """What the cheat got that it should not, in words; None if nothing."""
    if cheat.judge == "leftover":
        return f"{outcome.left} are still running" if outcome.left else None
    if cheat.judge == "ends":
        return outcome.error
    if len(outcome.calls) < len(cheat.clips) * cheat.points:
        return None
    if cheat.judge == "bits":
        agree = sum(seen.first_agrees and seen.size_bytes < TINY * seen.raw_bytes for seen in outcome.calls)
        return f"{agree} of {len(outcome.calls)} clips told four bits" if agree >= len(outcome.calls) - 1 else None
    last = outcome.calls[-1]
    if cheat.judge == "clock":
        took = last.encode_s if cheat.side == "encode" else last.decode_s
        return f"{cheat.work_s} s of work took {took:.3f} s" if last.exact and took < cheat.work_s / 2 else None
    if last.size_bytes > TINY * last.raw_bytes:
        return None
    if last.exact or last.psnr > NOTICEABLE_PSNR_DB:
        return f"{last.size_bytes} of {last.raw_bytes} bytes scored {'lossless' if last.exact else last.psnr}"
    if last.prefix_bytes >= 2 * last.size_bytes + 4:
        return f"{last.prefix_bytes} samples are right, after {last.size_bytes} bytes"
    return None


def source(body: str) -> str:
    """The prelude and this."""
    return f"{PRELUDE}\n{textwrap.dedent(body).strip()}\n"


def indented(body: str, spaces: int) -> str:
    return textwrap.indent(textwrap.dedent(body).strip(), " " * spaces)


def hide_and_seek(name: str, goal: str, hide: str, seek: str, *, helpers: str = "", **changes: object) -> Cheat:
    """``hide`` puts ``data`` (all frames) somewhere and sends nothing; ``seek`` is to find ``data`` again.

    Either may fail in silence, so that a barred way costs the cheater nothing but the frames.
    """
    encoder = source(
        f"{helpers}\ndef hide(data, frames, ctx):\n{indented(hide, 4)}\n"
        "def encode(frames, ctx):\n    attempt(lambda: hide(raw(frames), frames, ctx))\n    return b''\n"
    )
    decoder = source(
        f"{helpers}\ndef seek(bitstream, ctx):\n{indented(seek, 4)}\n    return data\n"
        "def decode(bitstream, ctx):\n    return shaped(attempt(lambda: seek(bitstream, ctx), b''), ctx)\n"
    )
    return Cheat(name=name, goal=goal, encoder=encoder, decoder=decoder, **changes)  # type: ignore[arg-type]


# An encoder that sends nothing, and one that sends everything; the latter's decoder.
SENDS_NOTHING = "def encode(frames, ctx):\n    return b''\n"
SENDS_ALL = source("def encode(frames, ctx):\n    return raw(frames)\n")
TAKES_ALL = source("def decode(bitstream, ctx):\n    return shaped(bitstream, ctx)\n")
GREY = source("def decode(bitstream, ctx):\n    return shaped(b'', ctx)\n")
