from __future__ import annotations

import pytest

from app.domain.errors import InvalidSpec
from app.domain.lanes import Device, Lane, eligible_lanes, parse_lanes

CPU = Lane(name="cpu", device="cpu", slots=2)
GPU0 = Lane(name="gpu0", device="cuda:0")
GPU1 = Lane(name="gpu1", device="cuda:1")
LANES = (CPU, GPU0, GPU1)


def test_lanes_are_read_from_text():
    assert parse_lanes("cpu=cpu*2,gpu=cuda:0*1") == (CPU, Lane(name="gpu", device="cuda:0", slots=1))
    assert parse_lanes("gpu=cuda")[0].device == "cuda:0"
    assert parse_lanes("none") == parse_lanes("") == ()


@pytest.mark.parametrize(
    "text",
    [
        "cpu",
        "cpu=",
        "cpu=tpu",
        "cpu=cpu*0",
        "cpu=cpu*65",
        "CPU=cpu",
        "a=cpu,a=cpu",
        "auto=cpu",
        "a=cuda:x",
        ",",
        "a=cpu*-1",
    ],
)
def test_text_that_is_no_lane_is_refused(text):
    with pytest.raises(ValueError):
        parse_lanes(text)


def test_a_lane_named_for_a_gpu_that_stands_on_the_cpu_says_so():
    assert "CPU" in (Lane(name="gpu", device="cpu").note or "")
    assert CPU.note is None and GPU0.note is None
    assert GPU1.kind is Device.CUDA


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("auto", {"cpu", "gpu0", "gpu1"}),
        ("cpu", {"cpu"}),
        ("cuda", {"gpu0", "gpu1"}),
        ("gpu", {"gpu0", "gpu1"}),
        ("gpu1", {"gpu1"}),
        ("cuda:1", {"gpu1"}),
    ],
)
def test_which_lanes_a_device_means(device, expected):
    assert eligible_lanes(device, LANES) == expected


def test_a_lanes_name_wins_over_a_kind():
    lanes = (Lane(name="gpu", device="cpu"), Lane(name="fast", device="cuda:0"))
    assert eligible_lanes("gpu", lanes) == {"gpu"}
    assert eligible_lanes("cuda", lanes) == {"fast"}


@pytest.mark.parametrize("device", ["tpu", "cuda:7", ""])
def test_what_matches_no_lane_is_refused_by_name(device):
    with pytest.raises(InvalidSpec, match="device: no lane for"):
        eligible_lanes(device, LANES)
