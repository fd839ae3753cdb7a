from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidSpec
from app.domain.lanes import Device, Lane, Waiting, WaitingJobs, eligible_lanes, next_job, parse_lanes

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


def wait(job_id: str, created_at: float, *, priority: int = 0, lanes: tuple[str, ...] = ("cpu",)) -> Waiting:
    return Waiting(job_id=job_id, priority=priority, created_at=created_at, lanes=frozenset(lanes))


def test_first_come_first_served_within_a_priority():
    jobs = WaitingJobs()
    for job in (wait("b", 2.0), wait("a", 1.0), wait("urgent", 3.0, priority=5), wait("last", 0.5, priority=-1)):
        jobs.add(job)
    order = []
    while (picked := next_job(CPU, jobs)) is not None:
        order.append(picked.job_id)
        jobs.discard(picked.job_id)
    assert order == ["urgent", "a", "b", "last"]


def test_a_job_for_any_gpu_is_there_for_both_and_taken_once():
    jobs = WaitingJobs()
    jobs.add(wait("any", 1.0, lanes=("gpu0", "gpu1")))
    jobs.add(wait("mine", 2.0, lanes=("gpu1",)))
    picked = next_job(GPU1, jobs)
    assert picked is not None and picked.job_id == "any"
    jobs.discard("any")
    assert next_job(GPU0, jobs) is None
    assert next_job(CPU, jobs) is None


jobs_strategy = st.lists(
    st.tuples(
        st.integers(-10, 10),
        st.floats(0, 5),
        st.sets(st.sampled_from(["cpu", "gpu0", "gpu1"]), min_size=1),
        st.booleans(),
    ),
    max_size=30,
)


@given(jobs_strategy)
def test_position_and_depth_agree_with_counting(entries):
    jobs, kept = WaitingJobs(), []
    for number, (priority, created_at, lanes, dropped) in enumerate(entries):
        job = wait(f"j{number}", created_at, priority=priority, lanes=tuple(lanes))
        jobs.add(job)
        jobs.add(job)
        if dropped:
            jobs.discard(job.job_id)
        else:
            kept.append(job)
    assert len(jobs) == len(kept)
    for job in kept:
        ahead = [other for other in kept if other.key < job.key and other.lanes & job.lanes]
        assert jobs.position(job.job_id) == len(ahead)
    for lane in LANES:
        mine = [job for job in kept if lane.name in job.lanes]
        assert jobs.depth(lane.name) == len(mine)
        assert next_job(lane, jobs) == min(mine, key=lambda job: job.key, default=None)
    assert jobs.position("unknown") is None
