"""What a decoder may return, and what is timed: each form of the right frames is right, or refused by name."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from app.domain.job import Blame, ErrorType
from app.sandbox.supervisor import Supervisor
from tests.sandbox.integrity.cheat import FLICKER, SENDS_ALL, TAKES_ALL, Cheat, source
from tests.sandbox.integrity.cheats_beside import CHEATS as BESIDE
from tests.sandbox.integrity.play import Jailed, World, play_jailed

RIGHT = {
    "tensor": "x",
    "array": "x.numpy()",
    "parameter": "torch.nn.Parameter(x, requires_grad=False)",
    "not-contiguous": "x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)",
    "negative-strides": "x.numpy()[::-1, :, ::-1].copy()[::-1, :, ::-1]",
    "part-of-more": "torch.cat([x, x], 3)[..., :x.shape[3]]",
    "fortran-order": "numpy.asfortranarray(x.numpy())",
    "read-only": "numpy.frombuffer(x.numpy().tobytes(), numpy.uint8).reshape(x.shape)",
    "masked-array": "numpy.ma.masked_array(x.numpy(), mask=x.numpy() > 0)",
    "matrix-subclass": "x.numpy().view(type('Mine', (numpy.ndarray,), {}))",
    "inference-tensor": "infer(x)",
}

REFUSED = {
    "float32": "x.float()",
    "float-zero-to-one": "x.double() / 255",
    "with-gradient": "(x.float() * torch.ones(1, requires_grad=True))",
    "bfloat16": "x.bfloat16()",
    "int64": "x.long()",
    "int8": "x.to(torch.int8)",
    "bool": "x > 0",
    "big-endian": "x.numpy().astype('>u2')",
    "complex": "x.numpy().astype(complex)",
    "objects": "x.numpy().astype(object)",
    "text": "x.numpy().astype('S3')",
    "record": "x.numpy().view([('value', 'u1')])",
    "dates": "x.numpy().astype('M8[s]')",
    "not-a-number": "x.float() * float('nan')",
    "infinite": "x.float() * float('inf')",
    "sparse": "x.to_sparse()",
    "meta": "x.to('meta')",
    "quantised": "torch.quantize_per_tensor(x.float(), 1.0, 0, torch.quint8)",
    "nested": "torch.nested.nested_tensor(list(x))",
    "one-frame-less": "x[1:]",
    "one-frame-more": "torch.cat([x, x[:1]])",
    "no-frame": "x[:0]",
    "no-batch": "x[0]",
    "extra-dimension": "x[None]",
    "flat": "x.reshape(-1)",
    "channels-last": "x.permute(0, 2, 3, 1)",
    "grey": "x[:, :1]",
    "four-channels": "torch.cat([x, x[:, :1]], 1)",
    "smaller": "x[..., ::2]",
    "scalar": "torch.tensor(7, dtype=torch.uint8)",
    "huge": "torch.zeros(1, dtype=torch.uint8).expand(1 << 40, 3, 48, 64)",
    "zero-strides": "x[:1, :1, :1, :1].expand(1000, 3, 48, 64)",
    "list": "list(x)",
    "tuple": "(x,)",
    "dict": "{'frames': x}",
    "generator": "(frame for frame in x)",
    "bytes": "x.numpy().tobytes()",
    "none": "None",
    "number": "7",
    "class": "torch.Tensor",
    "function": "lambda: x",
    "interface-only": "Interface(x)",
    "interface-beyond-memory": "Interface(x, 1 << 40)",
}

_HELPERS = """
class Interface:
    def __init__(self, x, size=None):
        self.kept = x.numpy()
        told = dict(self.kept.__array_interface__)
        self.__array_interface__ = {**told, "shape": (size,)} if size else told
@torch.inference_mode()
def infer(x): return x + 0
"""


def returning(expression: str) -> Cheat:
    """Sends everything; the decoder returns this form of the right frames ``x``."""
    decoder = source(
        f"{_HELPERS}\ndef decode(bitstream, ctx):\n    x = shaped(bitstream, ctx)\n    return {expression}\n"
    )
    return Cheat(name="form", goal="none", encoder=SENDS_ALL, decoder=decoder)


@pytest.mark.parametrize("name", RIGHT)
def test_right_frames_in_another_form_are_right(name: str, supervisor: Supervisor, world: World) -> None:
    played = play_jailed(returning(RIGHT[name]), supervisor, world)
    assert played.fault is None, played.fault
    assert played.points[0].lossless
    assert played.points[0].bitstream_bytes == 16 + played.outcome.calls[0].raw_bytes


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_uint8_frame_is_refused(name: str, supervisor: Supervisor, world: World) -> None:
    played = play_jailed(returning(REFUSED[name]), supervisor, world)
    assert played.fault is not None
    assert played.fault.error_type is ErrorType.INVALID_OUTPUT, played.fault
    assert "expected" in played.fault.message and not played.points


def test_memory_beyond_ones_own_ends_the_code_alone(supervisor: Supervisor, world: World) -> None:
    """An interface that lies about its size reads what is not there."""
    wild = "numpy.asarray(Interface(x, 1 << 36)).sum() and x"
    played = play_jailed(returning(wild), supervisor, world)
    assert played.fault is not None and played.fault.error_type is ErrorType.SIGNALLED, played.fault
    honest = play_jailed(returning("x"), supervisor, world)
    assert honest.fault is None and honest.points[0].lossless


@pytest.mark.parametrize("side", ["encode", "decode"])
def test_work_before_the_clock_is_timed_apart(side: str, supervisor: Supervisor, world: World) -> None:
    """Import and setup may compute as they like; the report shows how long they took."""
    slow = "time.sleep(0.1)\ndef setup(ctx):\n    time.sleep(0.15)\n"
    encoder = SENDS_ALL + slow if side == "encode" else SENDS_ALL
    decoder = TAKES_ALL + slow if side == "decode" else TAKES_ALL
    point = play_jailed(replace(returning("x"), encoder=encoder, decoder=decoder), supervisor, world).points[0]
    assert point.load_s > 0.1 and point.setup_s > 0.15
    assert point.encode_s < 0.1 and point.decode_s < 0.1


def test_waiting_is_charged_as_encode_time(supervisor: Supervisor, world: World) -> None:
    """A clock tells the decoder a few bits, which no jail prevents; the encoder's waiting for it is seen."""
    cheat = next(one for one in BESIDE if one.name == "timing-wall-clock")
    encoder = cheat.encoder.replace("    while True:", "    time.sleep(0.15)\n    while True:")
    slow = replace(cheat, encoder=encoder, clips=FLICKER[:2])
    points = play_jailed(slow, supervisor, world).points
    assert len(points) == 2 and all(point.encode_s > 0.15 for point in points)
    assert all(point.bitstream_bytes == 16 and not point.lossless for point in points)


def test_what_was_left_running_does_not_slow_the_next_call(supervisor: Supervisor, world: World) -> None:
    work = "sum(range(300000)) and x"

    def seconds() -> float:
        return min(play_jailed(returning(work), supervisor, world).points[0].decode_s for _ in range(3))

    before = seconds()
    spin = (
        "import threading\ndef spin():\n    while True: pass\n"
        "def encode(frames, ctx):\n"
        "    for _ in range(4): threading.Thread(target=spin, daemon=True).start()\n    return raw(frames)\n"
    )
    for _ in range(3):
        left = play_jailed(replace(returning("x"), encoder=source(spin)), supervisor, world)
        assert left.fault is None
    assert seconds() < 2 * before + 0.02


def test_a_burst_of_faults_leaves_the_jail_as_it_was(supervisor: Supervisor, world: World) -> None:
    """Nothing of an attempt that failed helps or harms the next."""

    def honest() -> Jailed:
        return play_jailed(returning("x"), supervisor, world)

    sha256 = honest().points[0].decoded_sha256
    for body in ("1/0", "__import__('os')._exit(3)", "__import__('os').kill(__import__('os').getpid(), 9)"):
        broken = play_jailed(returning(body), supervisor, world)
        assert broken.blame is Blame.CODE
    start = time.perf_counter()
    assert honest().points[0].decoded_sha256 == sha256
    assert time.perf_counter() - start < 5
