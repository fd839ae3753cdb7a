"""What the jail costs: its layers above a bare fork, a standby's answer, a null experiment, frames in and out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection
from fractions import Fraction

import harness
import numpy as np

from app.adapters.executors.jailed import JailedCodec
from app.domain.job import Limits
from app.evaluator.codec import Geometry, Layout
from app.evaluator.frames import Planes, SealedFrames
from app.sandbox import standby
from app.sandbox.offer import LAYERS, SEPARATED
from app.sandbox.standby import Standby
from app.sandbox.supervisor import Supervisor
from app.sandbox.zygote_link import ZygoteLink

ENCODER = "def encode(frames, ctx):\n    return b'x'\n"
DECODER = """\
import torch
def decode(bitstream, ctx):
    clip = ctx.clip
    return torch.zeros(clip.frames, 3, clip.height, clip.width, dtype=torch.uint8)
"""
# 60 frames of 1080p: 373 MB
LARGE = Geometry(layout=Layout.RGB, frames=60, height=1080, width=1920, fps=Fraction(25))
SMALL = Geometry(layout=Layout.RGB, frames=2, height=64, width=64, fps=Fraction(25))
SETUPS: dict[str, Collection[str]] = {
    "every layer": (),
    "no namespaces, as in a default container": SEPARATED,
    "bare fork": LAYERS,
}


def black(shape: Geometry) -> SealedFrames:
    def fill(room: Planes) -> None:
        for plane in room:
            plane[...] = 0

    return SealedFrames(shape, fill)


def timed(do: Callable[[], object], runs: int, *, before: Callable[[], object] = lambda: None) -> list[float]:
    """Milliseconds of each run; ``before`` is not timed."""
    found = []
    for _ in range(runs):
        before()
        began = time.perf_counter()
        do()
        found.append(1000 * (time.perf_counter() - began))
    return found


def row(name: str, found: list[float], base: float | None = None) -> list[str]:
    median = harness.quantile(found, 0.5)
    above = "" if base is None else f"{median - base:+.2f}"
    return [name, f"{min(found):.2f}", f"{median:.2f}", f"{harness.quantile(found, 0.9):.2f}", above]


def codec(supervisor: Supervisor) -> JailedCodec:
    return JailedCodec(
        supervisor, encoder=ENCODER, decoder=DECODER, contract="native", frame_format="rgb", limits=Limits()
    )


def forks(without: Collection[str], runs: int) -> list[float]:
    """From asking for a jail until it is locked down and waits for code."""
    link = ZygoteLink(without=without, cuda=False)
    made: list[Standby] = []

    def make() -> None:
        jail = standby.order(link, len(made) + 1, scratch_bytes=2**30, scratch_root=None, device=None)
        jail.await_confined()
        made.append(jail)

    def drop() -> None:
        if made:
            # The last one's end and the next one's namespace are not part of the next one's time.
            made[-1].channel.close()
            link.answer("exited", len(made), 10)
            made[-1].discard()
            time.sleep(0.02)

    try:
        link.await_ready()
        return timed(make, runs, before=drop)
    finally:
        link.close()


def calls(without: Collection[str], runs: int) -> tuple[list[float], list[float]]:
    """A standby's answer to the code, and a whole null experiment: encode and decode, each in its jail."""
    supervisor = Supervisor(without=without)
    frames, answers = black(SMALL), []

    def both() -> None:
        encoded = null.encode(frames, {}, wall_s=60)
        decoded = null.decode(encoded.bitstream, SMALL, wall_s=60)
        answers.extend(1000 * one.load_s for one in (encoded, decoded))

    try:
        supervisor.warm()
        null = codec(supervisor)
        whole = timed(both, runs, before=lambda: (time.sleep(0.03), supervisor.settle()))
        return answers, whole
    finally:
        supervisor.close()


def large(runs: int) -> list[list[str]]:
    supervisor = Supervisor()
    try:
        supervisor.warm()
        null, frames = codec(supervisor), black(LARGE)
        megabytes = f"{LARGE.nbytes / 1e6:.0f} MB of frames"
        encodes = [null.encode(frames, {}, wall_s=60) for _ in range(runs)]
        inward = [1000 * encoded.encode_s for encoded in encodes]
        whole = timed(lambda: null.decode(b"x", LARGE, wall_s=60), runs)
        outward = [1000 * null.decode(b"x", LARGE, wall_s=60).decode_s for _ in range(runs)]
        copy = timed(lambda: np.copyto(np.empty(LARGE.nbytes, np.uint8), frames.array), runs)
        return [
            row(f"{megabytes} in: from go to an encoder that returns at once", inward),
            row(f"{megabytes} out: from go to a decoder's black frames, copied once", outward),
            row(f"{megabytes} out: the whole call, allocating the memory included", whole),
            row(f"{megabytes} copied once by numpy, to compare", copy),
        ]
    finally:
        supervisor.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="how often each is timed")
    options = parser.parse_args()
    headings = ("ms", "minimum", "median", "p90", "above a bare fork")
    made = {name: forks(without, options.runs) for name, without in SETUPS.items()}
    bare = harness.quantile(made["bare fork"], 0.5)
    harness.print_table(
        f"A jail, from asking for it until it is locked down, {options.runs} times",
        headings,
        [row(name, found, bare) for name, found in made.items()],
    )
    rows = []
    for name, without in SETUPS.items():
        answers, whole = calls(without, options.runs)
        rows += [row(f"{name}: a standby has loaded the code", answers), row(f"{name}: encode and decode", whole)]
    harness.print_table("A null experiment of two jails (64x64, 2 frames)", headings[:4], [one[:4] for one in rows])
    harness.print_table("Frames in and out", headings[:4], [one[:4] for one in large(max(3, options.runs // 20))])


if __name__ == "__main__":
    main()
