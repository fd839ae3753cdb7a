"""Submissions that keep their contract, driven the whole way: encode in one jail, decode in another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.domain.errors import SubmissionError
from app.domain.job import ErrorType
from app.evaluator.codec import Decoded, Encoded, Layout
from app.evaluator.frames import SealedFrames
from tests.sandbox.jails import DECODER, ENCODER, Lab, frames_of, geometry

YUV_ENCODER = """
FORMAT = "yuv420"
def encode(frames, ctx):
    assert [tuple(plane.shape) for plane in frames] == [(2, 17, 23), (2, 9, 12), (2, 9, 12)]
    return b"".join(plane.numpy().tobytes() for plane in frames)
"""
YUV_DECODER = """
import numpy as np
FORMAT = "yuv420"
def decode(bitstream, ctx):
    c = ctx.clip
    h, w = -(-c.height // 2), -(-c.width // 2)
    flat = np.frombuffer(bitstream, np.uint8)
    luma, chroma = c.frames * c.height * c.width, c.frames * h * w
    u, v = flat[luma:luma + chroma], flat[luma + chroma:]
    return flat[:luma].reshape(c.frames, c.height, c.width), u.reshape(-1, h, w), v.reshape(-1, h, w)
"""

AGENT_ENCODER = """
import zlib
def run_encoding_agent(device, test_frame, output_path):
    assert device == "cpu" and test_frame.ndim == 3 and str(test_frame.dtype) == "uint8"
    with open(output_path, "wb") as file:
        file.write(zlib.compress(test_frame.tobytes()))
    return {"shape": test_frame.shape, "bitrate_mbps": 0.25, "psnr": 99.0, "path": output_path, "success": True}
if __name__ == "__main__":
    raise SystemExit("not here")
"""
AGENT_DECODER = """
import zlib, numpy as np
def run_decoding_agent(device, encoding_data, compressed_path, output_path):
    data = zlib.decompress(open(compressed_path, "rb").read())
    return np.frombuffer(data, np.uint8).reshape(encoding_data["shape"])
"""


def round_trip(
    lab: Lab, encoder: str, decoder: str, contract: str = "native", frame_format: str = "rgb"
) -> tuple[SealedFrames, Encoded, Decoded]:
    codec = lab.codec(encoder, decoder, contract=contract, frame_format=frame_format)
    shape = geometry(codec.layout, height=17, width=23)
    frames = frames_of(shape)
    encoded = codec.encode(frames, {"quality": 4}, wall_s=20)
    return frames, encoded, codec.decode(encoded.bitstream, shape, wall_s=20)


@pytest.mark.parametrize(
    ("encoder", "decoder", "contract", "frame_format"),
    [
        (ENCODER, DECODER, "native", "rgb"),
        (YUV_ENCODER, YUV_DECODER, "native", "yuv420"),
        (AGENT_ENCODER, AGENT_DECODER, "agent", "rgb"),
    ],
)
def test_lossless_codecs_come_back_as_they_went(
    each_lab: Lab, encoder: str, decoder: str, contract: str, frame_format: str
) -> None:
    frames, encoded, decoded = round_trip(each_lab, encoder, decoder, contract, frame_format)
    assert np.array_equal(frames.array, decoded.frames)
    assert encoded.encode_s > 0 and decoded.decode_s > 0
    assert encoded.load_s > 0 and encoded.setup_s > 0


def test_what_ctx_holds(lab: Lab) -> None:
    encoder = """
import os
def setup(ctx):
    ctx.weights = (ctx.clip.frames, ctx.params)
def encode(frames, ctx):
    assert os.path.isdir(ctx.scratch) and dict(ctx.assets) == {}
    return repr((ctx.device, ctx.seed, ctx.weights, ctx.clip.height, ctx.clip.width, ctx.clip.fps)).encode()
"""
    codec = lab.codec(encoder, seed=7)
    bitstream = codec.encode(frames_of(geometry()), {"quality": 4}, wall_s=20).bitstream
    assert bitstream == b"('cpu', 7, (2, {'quality': 4}), 18, 22, 25.0)"


def test_ten_bit_frames_are_uint16(lab: Lab) -> None:
    encoder = "def encode(frames, ctx):\n    return str(frames.dtype).encode() + frames.numpy().tobytes()"
    decoder = (
        "import numpy as np\ndef decode(bitstream, ctx):\n"
        "    return np.frombuffer(bitstream[12:], np.uint16).reshape(2, 3, 18, 22)"
    )
    codec = lab.codec(encoder, decoder)
    shape = replace(geometry(), bit_depth=10)
    frames = frames_of(shape)
    bitstream = codec.encode(frames, {}, wall_s=20).bitstream
    assert bitstream.startswith(b"torch.uint16")
    assert np.array_equal(codec.decode(bitstream, shape, wall_s=20).frames, frames.array)


def test_a_format_that_changes_at_run_time_is_refused(lab: Lab) -> None:
    with pytest.raises(SubmissionError) as caught:
        lab.encode("FORMAT = 'yuv' + '420'\n" + ENCODER)
    assert caught.value.fault.error_type is ErrorType.CONTRACT_VIOLATION
    assert "'yuv420'" in caught.value.fault.message


def test_wrong_planes_are_named(lab: Lab) -> None:
    codec = lab.codec(decoder="def decode(b, ctx):\n    return b", frame_format="yuv420")
    with pytest.raises(SubmissionError) as caught:
        codec.decode(b"", geometry(Layout.YUV420), wall_s=20)
    assert "expected a tuple of the planes (Y, U, V), got bytes" in caught.value.fault.message


def test_an_agents_own_numbers_are_only_reported(lab: Lab) -> None:
    _, encoded, _ = round_trip(lab, AGENT_ENCODER, AGENT_DECODER, "agent")
    assert encoded.self_reported == {"bitrate_mbps": 0.25, "psnr": 99.0, "success": True}


def test_what_an_agent_returns_is_charged(lab: Lab) -> None:
    hidden = AGENT_ENCODER.replace('"success": True', '"success": True, "model": "x" * 1000')
    _, plain, _ = round_trip(lab, AGENT_ENCODER, AGENT_DECODER, "agent")
    _, heavy, _ = round_trip(lab, hidden, AGENT_DECODER, "agent")
    assert len(heavy.bitstream) - len(plain.bitstream) > 2 * 1000


@pytest.mark.parametrize(
    "decoder",
    [
        # The older form: everything is in the dict, the path too.
        """
import zlib, numpy as np
def run_decoding_agent(device, encoding_data):
    data = zlib.decompress(open(encoding_data["path"], "rb").read())
    return {"decoded_frame": np.frombuffer(data, np.uint8).reshape(encoding_data["shape"])}
""",
        # An image file, in colour order RGB.
        """
import zlib, numpy as np
from PIL import Image
def run_decoding_agent(device, encoding_data, compressed_path, output_path):
    data = zlib.decompress(open(compressed_path, "rb").read())
    Image.fromarray(np.frombuffer(data, np.uint8).reshape(encoding_data["shape"])[:, :, ::-1].copy()).save(output_path)
    return {"success": True, "output_path": output_path}
""",
        # A video, under the name that was given for an image.
        """
import av, zlib, numpy as np
def run_decoding_agent(device, encoding_data, compressed_path, output_path):
    data = zlib.decompress(open(compressed_path, "rb").read())
    frame = np.frombuffer(data, np.uint8).reshape(encoding_data["shape"])
    with av.open(output_path, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = frame.shape[0], frame.shape[1], "bgr0"
        for packet in stream.encode(av.VideoFrame.from_ndarray(frame, "bgr24")):
            container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
""",
        # Another file name beside output_path, and a list of one tensor elsewhere.
        """
import os, zlib, numpy as np
def run_decoding_agent(device, encoding_data, compressed_path, output_path):
    data = zlib.decompress(open(compressed_path, "rb").read())
    frame = np.frombuffer(data, np.uint8).reshape(encoding_data["shape"])
    np.save(os.path.join(os.path.dirname(output_path), "frame.npy"), frame)
""",
        """
import zlib, torch
def run_decoding_agent(dev, data, where, *, output_path=None):
    raw = zlib.decompress(open(where, "rb").read())
    return [torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(data["shape"])]
""",
    ],
)
def test_the_ways_in_which_an_agent_may_hand_over_a_frame(lab: Lab, decoder: str) -> None:
    frames, _, decoded = round_trip(lab, AGENT_ENCODER, decoder, "agent")
    assert np.array_equal(frames.array, decoded.frames)


def test_the_older_encoder_gets_what_its_signature_accepts(lab: Lab) -> None:
    encoder = "def run_encoding_agent(device):\n    return {'seen': device}"
    decoder = (
        "import numpy as np\ndef run_decoding_agent(device, encoding_data):\n"
        "    assert encoding_data == {'seen': 'cpu'}\n    return np.zeros((17, 23, 3), np.uint8)"
    )
    _, _, decoded = round_trip(lab, encoder, decoder, "agent")
    assert not decoded.frames.any()


def test_values_of_every_kind_cross(lab: Lab) -> None:
    encoder = """
import numpy as np, torch
def run_encoding_agent(device, test_frame, output_path):
    return {"none": None, "b": b"x", "t": (1, 2.5), "a": np.arange(6, dtype=np.int16).reshape(2, 3),
            "q": torch.ones(2), "n": np.float32(1.5), 3: {"deep": [True]}}
"""
    decoder = """
import numpy as np, torch
def run_decoding_agent(device, encoding_data):
    d = encoding_data
    assert d["none"] is None and d["b"] == b"x" and d["t"] == [1, 2.5] and d["n"] == 1.5 and d[3] == {"deep": [True]}
    assert d["a"].dtype == np.int16 and d["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and torch.equal(d["q"], torch.ones(2))
    return np.zeros((17, 23, 3), np.uint8)
"""
    round_trip(lab, encoder, decoder, "agent")


@pytest.mark.parametrize(
    ("encoder", "decoder", "kind", "words"),
    [
        ("def run_encoding_agent(): pass", AGENT_DECODER, None, None),
        (
            "def run_encoding_agent(a, b, c, d): pass",
            AGENT_DECODER,
            "contract_violation",
            "run_encoding_agent(a, b, c, d) cannot be called as run_encoding_agent(device, test_frame, output_path)",
        ),
        (
            "def run_encoding_agent(device):\n    return {'model': lambda: 0}",
            AGENT_DECODER,
            "contract_violation",
            "['model'] is a function, which cannot cross",
        ),
        (AGENT_ENCODER, "def run_decoding_agent(d, e): return {}", "invalid_output", "got no frame and no file"),
        (
            AGENT_ENCODER,
            "import numpy\ndef run_decoding_agent(d, e): return numpy.zeros((4, 4, 3), 'uint8')",
            "invalid_output",
            "expected frames as uint8 of shape [1, 17, 23, 3], got uint8 of shape [1, 4, 4, 3]",
        ),
        (
            AGENT_ENCODER,
            "def run_decoding_agent(d, e, c, output_path): open(output_path, 'w').write('no image')",
            "invalid_output",
            "cannot be read",
        ),
    ],
)
def test_agents_that_break_their_contract(
    lab: Lab, encoder: str, decoder: str, kind: str | None, words: str | None
) -> None:
    if kind is None:
        with pytest.raises(SubmissionError):
            round_trip(lab, encoder, decoder, "agent")
        return
    with pytest.raises(SubmissionError) as caught:
        round_trip(lab, encoder, decoder, "agent")
    assert caught.value.fault.error_type == kind
    assert words is not None and words in caught.value.fault.message
