"""The submissions that users copy, run in this process on real frames."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
CLIP = ROOT.parent / "shared" / "clips" / "bbb_cif_30f.y4m"
MAX_SOURCE_BYTES = 256 * 1024


def load(name: str, side: str) -> ModuleType:
    path = EXAMPLES / name / f"{side}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}_{side}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    """[12, 3, 106, 138] uint8 RGB: sides that are no multiple of the blocks, and an incomplete last group."""
    if not CLIP.exists():
        pytest.skip(f"the clip {CLIP.name} is not beside the repository")
    with av.open(str(CLIP)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:12]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)[:, :, 60:166, 80:218].contiguous()


def context(frames: torch.Tensor, params: dict[str, object] | None = None) -> SimpleNamespace:
    """What a submission is given; a decoder's has no params."""
    shape = SimpleNamespace(frames=frames.shape[0], height=frames.shape[2], width=frames.shape[3], fps=25.0)
    ctx = SimpleNamespace(device="cpu", seed=0, clip=shape)
    if params is not None:
        ctx.params = params
    return ctx


def round_trip(name: str, frames: torch.Tensor, params: dict[str, object]) -> tuple[bytes, torch.Tensor]:
    bitstream = load(name, "encoder").encode(frames, context(frames, params))
    decoder = load(name, "decoder")
    decoded = decoder.decode(bitstream, context(frames))
    assert torch.equal(decoded, decoder.decode(bitstream, context(frames))), "a second decode differs"
    assert decoded.dtype is torch.uint8 and decoded.shape == frames.shape
    return bitstream, decoded


def psnr_db(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(255.0**2 / F.mse_loss(a.double(), b.double())))


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/*coder.py")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_each_source_fits_a_submission(path: Path) -> None:
    assert path.stat().st_size < MAX_SOURCE_BYTES
    compile(path.read_text(), str(path), "exec")


def test_transform_codec_trades_bytes_for_quality(clip: torch.Tensor) -> None:
    sizes, qualities = [], []
    for quality in (8, 16, 32, 64):
        bitstream, decoded = round_trip("transform_codec", clip, {"quality": quality})
        sizes.append(len(bitstream))
        qualities.append(psnr_db(clip, decoded))
    assert all(small < large for small, large in pairwise(sizes))
    assert all(worse + 1.5 < better for worse, better in pairwise(qualities))
    assert sizes[-1] < clip.numel() / 10
    assert 25 < qualities[0] < 29 and 34.5 < qualities[-1] < 38


def test_transform_codec_needs_no_params(clip: torch.Tensor) -> None:
    frames = clip[:8]
    assert round_trip("transform_codec", frames, {})[0] == round_trip("transform_codec", frames, {"quality": 32})[0]


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 7, 5), (9, 3, 16, 8), (3, 3, 33, 64)])
def test_transform_codec_takes_any_size(shape: tuple[int, ...]) -> None:
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    round_trip("transform_codec", frames, {"quality": 64})


def test_transform_codec_survives_extremes() -> None:
    noise = torch.from_numpy(np.random.default_rng(2).integers(0, 2, (8, 1, 32, 32), dtype=np.uint8) * 255)
    grey = noise.expand(-1, 3, -1, -1).contiguous()
    _, decoded = round_trip("transform_codec", grey, {"quality": 1e9})
    assert psnr_db(grey, decoded) > 45
    flat = torch.full((8, 3, 32, 32), 77, dtype=torch.uint8)
    bitstream, decoded = round_trip("transform_codec", flat, {"quality": 8})
    assert len(bitstream) < 200 and psnr_db(flat, decoded) > 35


def test_transform_codec_joins_segments(clip: torch.Tensor) -> None:
    """A clip that is cut for the sake of memory decodes to the same frames as one that is not."""
    frames = clip[:9]
    encoder, decoder = load("transform_codec", "encoder"), load("transform_codec", "decoder")
    for height, width in ((1, 1), (360, 640), (1080, 1920), (4320, 7680)):
        assert encoder.segment_frames(height, width) == decoder.segment_frames(height, width)
    whole = decoder.decode(encoder.encode(frames, context(frames, {})), context(frames))
    encoder.SEGMENT_SAMPLES = decoder.SEGMENT_SAMPLES = 1
    cut = encoder.encode(frames, context(frames, {}))
    assert torch.equal(decoder.decode(cut, context(frames)), whole)


def test_null_codec_is_lossless(clip: torch.Tensor) -> None:
    bitstream, decoded = round_trip("null_codec", clip, {})
    assert torch.equal(decoded, clip)
    assert len(bitstream) < clip.numel()


def yuv_planes(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Any three planes of 4:2:0 shape will do: green, and the other two at half the size."""
    half = [F.avg_pool2d(frames[:, c : c + 1].float(), 2, ceil_mode=True)[:, 0].to(torch.uint8) for c in (2, 0)]
    return frames[:, 1].contiguous(), *half


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_yuv_codec_keeps_all_but_the_low_bits(clip: torch.Tensor, shift: int) -> None:
    planes = yuv_planes(clip[:, :, :75, :101])
    ctx = context(clip[:, :, :75, :101], {"shift": shift})
    bitstream = load("yuv_codec", "encoder").encode(planes, ctx)
    decoded = load("yuv_codec", "decoder").decode(bitstream, ctx)
    assert len(bitstream) < sum(plane.numel() for plane in planes)
    for plane, back in zip(planes, decoded, strict=True):
        assert back.dtype is torch.uint8 and back.shape == plane.shape
        assert int((plane.int() - back.int()).abs().max()) <= (1 << shift) >> 1


def test_legacy_agent_writes_a_file_and_reads_it_back(clip: torch.Tensor, tmp_path: Path) -> None:
    frame = clip[0].permute(1, 2, 0).flip(-1).contiguous().numpy()
    compressed, picture = tmp_path / "compressed.bin", tmp_path / "decoded.png"
    told = load("legacy_agent", "encoder").run_encoding_agent("cpu", frame, str(compressed))
    assert compressed.stat().st_size == told["compressed_size_bytes"] < frame.nbytes / 3
    load("legacy_agent", "decoder").run_decoding_agent("cpu", told, str(compressed), str(picture))
    with av.open(str(picture)) as container:
        decoded = next(container.decode(video=0)).to_ndarray(format="bgr24")
    assert decoded.shape == frame.shape
    assert psnr_db(torch.from_numpy(frame), torch.from_numpy(decoded)) > 30
