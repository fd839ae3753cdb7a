from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.lanes import Lane
from app.domain.waiting import Waiting, WaitingJobs

CPU = Lane(name="cpu", device="cpu", slots=2)
GPU0 = Lane(name="gpu0", device="cuda:0")
GPU1 = Lane(name="gpu1", device="cuda:1")
LANES = (CPU, GPU0, GPU1)


def wait(job_id: str, created_at: float, *, priority: int = 0, lanes: tuple[str, ...] = ("cpu",)) -> Waiting:
    return Waiting(job_id=job_id, priority=priority, created_at=created_at, lanes=frozenset(lanes))


def test_first_come_first_served_within_a_priority():
    jobs = WaitingJobs()
    for job in (wait("b", 2.0), wait("a", 1.0), wait("urgent", 3.0, priority=5), wait("last", 0.5, priority=-1)):
        jobs.add(job)
    order = []
    while (picked := jobs.next(CPU.name)) is not None:
        order.append(picked.job_id)
        jobs.discard(picked.job_id)
    assert order == ["urgent", "a", "b", "last"]


def test_a_job_for_any_gpu_is_there_for_both_and_taken_once():
    jobs = WaitingJobs()
    jobs.add(wait("any", 1.0, lanes=("gpu0", "gpu1")))
    jobs.add(wait("mine", 2.0, lanes=("gpu1",)))
    picked = jobs.next(GPU1.name)
    assert picked is not None and picked.job_id == "any"
    jobs.discard("any")
    assert jobs.next(GPU0.name) is None
    assert jobs.next(CPU.name) is None


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
        ahead = [
            other
            for other in kept
            if (-other.priority, other.place) < (-job.priority, job.place) and other.lanes & job.lanes
        ]
        assert jobs.position(job.job_id) == len(ahead)
    for lane in LANES:
        mine = [job for job in kept if lane.name in job.lanes]
        assert jobs.depth(lane.name) == len(mine)
        assert jobs.next(lane.name) == min(mine, key=lambda job: (-job.priority, job.place), default=None)
    assert jobs.position("unknown") is None


def of(client: str, number: int, *, at: float | None = None, weight: int = 1, priority: int = 0) -> Waiting:
    return Waiting(
        job_id=f"{client}-{number}",
        priority=priority,
        created_at=float(number) if at is None else at,
        lanes=frozenset({"cpu"}),
        client=client,
        weight=weight,
    )


def drained(jobs: WaitingJobs, most: int = 10**6) -> list[str]:
    order = []
    while len(order) < most and (picked := jobs.next("cpu")) is not None:
        jobs.take("cpu", picked)
        order.append(picked.job_id)
    return order


def test_one_job_of_another_client_is_next_however_many_wait():
    jobs = WaitingJobs()
    for number in range(10_000):
        jobs.add(of("many", number))
    assert len(drained(jobs, 100)) == 100
    jobs.add(of("one", 0, at=99_999.0))
    assert jobs.position("one-0") == 0
    assert jobs.position("many-100") == 1
    assert drained(jobs, 2) == ["one-0", "many-100"]


def test_clients_take_turns_and_weights_are_shares():
    jobs = WaitingJobs()
    for number in range(60):
        jobs.add(of("a", number))
        jobs.add(of("b", number, weight=3))
    first = drained(jobs, 40)
    assert 9 <= sum(name.startswith("a") for name in first) <= 11


def test_a_client_that_was_away_has_saved_up_nothing():
    jobs = WaitingJobs()
    for number in range(50):
        jobs.add(of("a", number))
    drained(jobs, 40)
    for number in range(50):
        jobs.add(of("b", number, at=1000.0 + number))
    assert sum(name.startswith("b") for name in drained(jobs, 10)) in (5, 6)


def test_priority_goes_before_shares():
    jobs = WaitingJobs()
    for number in range(5):
        jobs.add(of("a", number))
    jobs.add(of("b", 0, at=9.0, priority=-1))
    assert drained(jobs)[-1] == "b-0"


clients_strategy = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 9), st.integers(-1, 1)), min_size=1, max_size=40
)


@given(clients_strategy, st.integers(0, 15))
def test_a_position_is_the_place_in_which_jobs_are_then_taken(entries, already):
    weights = {"a": 1, "b": 1, "c": 2, "d": 3}
    jobs = WaitingJobs()
    for number, (client, at, priority) in enumerate(entries):
        jobs.add(of(client, number, at=float(at), weight=weights[client], priority=priority))
    drained(jobs, already)
    left = [f"{client}-{n}" for n, (client, _, _) in enumerate(entries) if f"{client}-{n}" in jobs]
    told = {name: jobs.position(name) for name in left}
    assert told == {name: place for place, name in enumerate(drained(jobs))}
