"""A CUDA lane, driven through the service."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest
from cuda_service import Service, command_line, descendants, device_memory_bytes, nvidia_files

pytestmark = pytest.mark.gpu

CODEC = Path(__file__).resolve().parents[2] / "examples" / "transform_codec"
MIB, GIB = 2**20, 2**30
RETURNED_WITHIN_S = 10.0

NULL_DECODER = """
import torch

def decode(bitstream, ctx):
    clip = ctx.clip
    return torch.zeros(clip.frames, 3, clip.height, clip.width, dtype=torch.uint8)
"""
ON_DEVICE_ENCODER = """
import torch

def encode(frames, ctx):
    assert frames.is_cuda and frames.device == torch.device(ctx.device), frames.device
    assert torch.cuda.is_initialized()
    assert ctx.device == "cuda:0", ctx.device
    return frames.float().mean().item().hex().encode()
"""
ON_DEVICE_DECODER = """
import torch

def decode(bitstream, ctx):
    assert torch.cuda.is_initialized()
    mean = float.fromhex(bytes(bitstream).decode())
    clip = ctx.clip
    shape = (clip.frames, 3, clip.height, clip.width)
    return torch.full(shape, mean, device=ctx.device).round().to(torch.uint8)
"""
SLEEPING_ENCODER = """
import time

def encode(frames, ctx):
    time.sleep(SECONDS)
    return b"x"
"""
LARGE_ENCODER = """
import torch

def encode(frames, ctx):
    held = torch.ones(2 * 2**30, dtype=torch.uint8, device=ctx.device)
    return str(int(held[-1])).encode()
"""
GREEDY_ENCODER = """
import torch

def encode(frames, ctx):
    return bytes(torch.empty(2**45, dtype=torch.uint8, device=ctx.device)[:1].cpu())
"""
# Work of a second or so on a large device and more on a small one, put on a stream of its own that nobody waits for.
WORK = """
import time
import torch

def launch(device):
    with torch.cuda.stream(torch.cuda.Stream(device)):
        product = torch.ones(4096, 4096, device=device)
        for _ in range(300):
            product = product @ product * 1e-4
    return product
"""
SYNCHRONISE = "torch.cuda.synchronize(ctx.device)"


def working_encoder(ending: str) -> str:
    return f"{WORK}\ndef encode(frames, ctx):\n    kept = launch(ctx.device)\n    {ending}\n    return b'x'\n"


def working_decoder(ending: str) -> str:
    return (
        f"{WORK}\ndef decode(bitstream, ctx):\n    kept = launch(ctx.device)\n    {ending}\n    clip = ctx.clip\n"
        "    return torch.zeros(clip.frames, 3, clip.height, clip.width, dtype=torch.uint8)\n"
    )


def test_the_lane_names_its_device(service: Service, cuda: str) -> None:
    lanes = {lane["name"]: lane for lane in service.client.get("/lanes").json()["lanes"]}
    assert lanes["gpu"]["device"] == "cuda:0" and lanes["gpu"]["device_name"] == cuda and lanes["gpu"]["note"] is None
    assert lanes["cpu"]["device"] == "cpu"


def test_frames_are_on_the_device_on_both_sides(service: Service, cuda: str) -> None:
    job = service.run(ON_DEVICE_ENCODER, ON_DEVICE_DECODER)
    assert (job["lane"], job["device"], job["device_name"]) == ("gpu", "cuda:0", cuda)
    (point,) = job["report"]["points"]
    assert point["metrics"]["psnr_y"] > 5
    assert point["peak_device_memory_bytes"] > 0


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_a_device_kind_finds_the_lane(service: Service, device: str) -> None:
    assert service.run(ON_DEVICE_ENCODER, ON_DEVICE_DECODER, device=device)["lane"] == "gpu"


def test_no_zygote_ever_opens_the_device(service: Service) -> None:
    """Also not after jobs: a child that is forked from a process with a context cannot use CUDA."""
    service.run(ON_DEVICE_ENCODER, ON_DEVICE_DECODER)
    resident = descendants(service.pid)
    assert any("zygote" in command_line(pid) for pid in resident)
    assert [command_line(pid) for pid in (service.pid, *resident) if holds_device(pid)] == []


def test_the_context_is_made_in_the_jail(service: Service) -> None:
    """While a call runs, a process that was not there before holds the device; it ends with the call."""
    service.run(ON_DEVICE_ENCODER, ON_DEVICE_DECODER)
    resident = set(descendants(service.pid))
    job = service.submit(SLEEPING_ENCODER.replace("SECONDS", "6"), NULL_DECODER)
    deadline = time.monotonic() + 60
    holders: list[int] = []
    while not holders and time.monotonic() < deadline:
        holders = [pid for pid in set(descendants(service.pid)) - resident if holds_device(pid)]
        time.sleep(0.1)
    assert holders
    assert service.ended(job["id"])["state"] == "succeeded"
    assert not any(Path(f"/proc/{pid}").exists() for pid in holders)


def holds_device(pid: int) -> bool:
    """Whether a process has an NVIDIA device file open; one that has just ended has not."""
    try:
        return bool(nvidia_files(pid))
    except PermissionError:
        pytest.skip("only root may look into a process that is not dumpable")
    except FileNotFoundError:
        return False


def test_device_memory_is_returned_after_each_job(service: Service) -> None:
    service.run(ON_DEVICE_ENCODER, ON_DEVICE_DECODER)
    before = settled_memory_bytes(0)
    for _ in range(3):
        job = service.run(LARGE_ENCODER, NULL_DECODER)
        assert job["report"]["points"][0]["peak_device_memory_bytes"] >= 2 * GIB
        assert settled_memory_bytes(before + 64 * MIB) <= before + 64 * MIB


def settled_memory_bytes(wanted: int) -> int:
    """The device's memory in use, once it is no more than wanted or after a while: the driver needs a moment."""
    deadline = time.monotonic() + RETURNED_WITHIN_S
    used = device_memory_bytes()
    while used > wanted and time.monotonic() < deadline:
        time.sleep(0.25)
        used = device_memory_bytes()
    return used


def test_device_memory_beyond_the_device_is_the_submissions_limit(service: Service) -> None:
    job = service.ended(service.submit(GREEDY_ENCODER, NULL_DECODER)["id"])
    assert (job["state"], job["fault"], job["error_type"]) == ("failed", "limit", "gpu_memory_limit")
    assert job["error"]["stage"] == "encode"
    service.run(ON_DEVICE_ENCODER, ON_DEVICE_DECODER)


def test_work_that_nobody_waited_for_is_timed(service: Service) -> None:
    """Launching and returning at once must not look faster than waiting."""
    waiting = service.run(working_encoder(SYNCHRONISE), working_decoder(SYNCHRONISE))["report"]["points"][0]
    leaving = service.run(working_encoder("pass"), working_decoder("pass"))["report"]["points"][0]
    for clock in ("encode_s", "decode_s"):
        assert waiting[clock] > 0.2, "too little work to tell the two apart"
        assert leaving[clock] > 0.7 * waiting[clock]


def test_both_lanes_work_at_once(service: Service) -> None:
    # Long beside the contexts that the other job has to make: one for each call.
    on_cpu = service.submit(SLEEPING_ENCODER.replace("SECONDS", "25"), NULL_DECODER, device="cpu")
    on_gpu = service.submit(ON_DEVICE_ENCODER, ON_DEVICE_DECODER)
    gpu, cpu = service.ended(on_gpu["id"]), service.ended(on_cpu["id"])
    assert gpu["state"] == cpu["state"] == "succeeded"
    assert (gpu["lane"], cpu["lane"]) == ("gpu", "cpu")
    starts = [datetime.fromisoformat(job["started_at"]) for job in (gpu, cpu)]
    ends = [datetime.fromisoformat(job["finished_at"]) for job in (gpu, cpu)]
    assert max(starts) < min(ends)
    assert ends[0] < ends[1], "the long job on the CPU held up the short one on the GPU"


def test_a_codec_means_the_same_on_both_devices(service: Service) -> None:
    fields = {
        "clips": ["carphone"],
        "frames": {"start": 0, "count": 24},
        "rate_points": [{"quality": quality} for quality in (8, 16, 32, 64)],
    }
    sources = [(CODEC / f"{side}.py").read_text() for side in ("encoder", "decoder")]
    on_gpu = service.run(*sources, **fields)["report"]["points"]
    on_cpu = service.run(*sources, device="cpu", **fields)["report"]["points"]
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu["bitstream_bytes"] == pytest.approx(cpu["bitstream_bytes"], rel=0.005)
        assert gpu["metrics"]["psnr_yuv"] == pytest.approx(cpu["metrics"]["psnr_yuv"], abs=0.05)
