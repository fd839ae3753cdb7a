"""Jobs on their way: lanes, cancelling, faults, restarts."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.delivery import Answer, DeliveryState
from app.domain.errors import (
    AlreadyEnded,
    Conflict,
    Draining,
    FieldError,
    InvalidSpec,
    NotFound,
    QueueFull,
    StoreAway,
    StoreHeld,
    StoreUnavailable,
)
from app.domain.evaluation import FrameRange
from app.domain.job import ErrorType, Status
from app.domain.lifecycle import MAX_PLATFORM_FAILURES
from app.engine.bounds import Bounds
from app.ports import Inspection, JobFilter
from tests.engine.world import World, broke, loses, lost


async def test_a_long_job_on_one_lane_does_not_delay_another(tmp_path):
    async with World(tmp_path, lanes="cpu=cpu,gpu=cpu").running() as world:
        long = await world.submit(device="cpu")
        await world.until(lambda: long.id in world.executor("cpu").running)
        short = await world.submit(device="gpu")
        await world.until(lambda: short.id in world.executor("gpu").running)
        world.executor("gpu").finish(short.id)
        await world.job_until(short.id, "succeeded")
        assert (await world.jobs.get(long.id)).status is Status.RUNNING
        world.executor("cpu").finish(long.id)
        await world.job_until(long.id, "succeeded")


async def test_order_and_positions_are_exact(world):
    first = await world.submit()
    await world.until(lambda: first.id in world.executor().running)
    jobs = [await world.submit() for _ in range(4)]
    urgent = await world.submit(priority=5)
    position = world.board.waiting.position
    assert [position(job.id) for job in (urgent, *jobs)] == [0, 1, 2, 3, 4]
    await world.jobs.cancel(jobs[1].id)
    assert [position(job.id) for job in (urgent, jobs[0], jobs[1], jobs[2], jobs[3])] == [0, 1, None, 2, 3]
    for expected in (first, urgent, jobs[0], jobs[2], jobs[3]):
        await world.until(lambda expected=expected: expected.id in world.executor().running)
        world.executor().finish(expected.id)
    assert world.executor().ran == [job.id for job in (first, urgent, jobs[0], jobs[2], jobs[3])]


async def test_a_job_for_any_lane_is_taken_by_the_free_one(tmp_path):
    async with World(tmp_path, lanes="a=cpu,b=cpu").running() as world:
        blocker = await world.submit(device="a")
        await world.until(lambda: blocker.id in world.executor("a").running)
        job = await world.submit(device="auto")
        await world.until(lambda: job.id in world.executor("b").running)


async def test_cancelling_a_queued_job_ends_it_at_once(world):
    first, second = await world.submit(), await world.submit()
    await world.until(lambda: first.id in world.executor().running)
    assert (await world.jobs.cancel(second.id)).status is Status.CANCELLED
    with pytest.raises(AlreadyEnded, match="cancelled"):
        await world.jobs.cancel(second.id)
    assert world.executor().ran == [first.id]


async def test_cancelling_a_running_job_kills_its_attempt_and_frees_the_slot(world):
    job, following = await world.submit(), await world.submit()
    await world.until(lambda: job.id in world.executor().running)
    assert (await world.jobs.cancel(job.id)).cancel_requested
    ended = await world.job_until(job.id, "cancelled")
    assert world.executor().cancelled == [job.id]
    assert ended.attempts[0].ended == "stopped"
    await world.until(lambda: following.id in world.executor().running)


async def test_a_cancel_request_that_comes_with_the_claim_is_not_lost(world):
    """At whatever moment it comes, the job ends cancelled and runs no more."""
    for pauses in range(12):
        job = await world.submit()
        for _ in range(pauses):
            await asyncio.sleep(0)
        await world.jobs.cancel(job.id)
        await world.job_until(job.id, "cancelled")
    assert not world.executor().running
    assert not world.board.stop_requests


async def test_a_fault_of_the_submission_ends_the_job(world):
    world.executor().script = [broke(ErrorType.EXCEPTION, "boom")]
    job = await world.submit()
    failed = await world.job_until(job.id, "failed")
    assert failed.fault.message == "boom" and failed.attempt == 1


async def test_a_worker_that_dies_costs_a_retry_and_the_job_runs_again(world):
    world.executor().script = [lost()]
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running, skip=True)
    assert (await world.jobs.get(job.id)).attempt == 2
    world.executor().finish(job.id)
    assert (await world.job_until(job.id, "succeeded")).attempts[0].reason == "the evaluator died"


async def test_a_job_that_always_kills_its_worker_fails_with_the_evidence(world):
    world.executor().script = [lost()] * MAX_PLATFORM_FAILURES
    job = await world.submit()
    failed = await world.job_until(job.id, "failed", skip=True)
    assert failed.fault.error_type is ErrorType.WORKER_LOST
    assert [attempt.ended for attempt in failed.attempts] == ["broke"] * MAX_PLATFORM_FAILURES


async def test_a_bug_of_ours_is_a_platform_fault(world):
    world.executor().script = [ZeroDivisionError("oh")] * MAX_PLATFORM_FAILURES
    failed = await world.job_until((await world.submit()).id, "failed", skip=True)
    assert failed.fault.error_type is ErrorType.INTERNAL_ERROR
    assert "ZeroDivisionError" in failed.fault.message


async def test_a_slot_that_cannot_warm_up_burns_no_retries(tmp_path):
    world = World(tmp_path)
    world.executor().cold = [lost() for _ in range(5)]
    async with world.running():
        job = await world.submit()
        await world.until(lambda: job.id in world.executor().running, skip=True)
        assert (await world.jobs.get(job.id)).attempt == 1
        assert not world.board.states["cpu"].broken


async def test_a_stop_gives_running_jobs_back_and_the_next_start_runs_them(tmp_path):
    async with World(tmp_path).running() as world:
        running, queued = await world.submit(), await world.submit()
        await world.until(lambda: running.id in world.executor().running)
    assert world.executor().stopped and world.executor().cancelled == [running.id]
    async with World(tmp_path, clock=world.clock).running() as again:
        await again.until(lambda: running.id in again.executor().running)
        again.executor().finish(running.id)
        await again.until(lambda: queued.id in again.executor().running)
        again.executor().finish(queued.id)
        done = await again.job_until(running.id, "succeeded")
        assert [attempt.ended for attempt in done.attempts] == ["released", "finished"]
        await again.job_until(queued.id, "succeeded")


async def test_a_job_for_a_lane_that_is_gone_waits_for_it(tmp_path):
    async with World(tmp_path, lanes="cpu=cpu,gpu=cpu").running() as world:
        blocker = await world.submit(device="gpu")
        await world.until(lambda: blocker.id in world.executor("gpu").running)
        waiting = await world.submit(device="gpu")
    async with World(tmp_path, lanes="cpu=cpu").running() as world:
        assert set(world.board.stranded) == {blocker.id, waiting.id}
        assert (await world.jobs.cancel(waiting.id)).status is Status.CANCELLED
    async with World(tmp_path, lanes="gpu=cpu").running() as world:
        await world.until(lambda: blocker.id in world.executor("gpu").running)


async def test_a_dead_letter_can_be_sent_again(world):
    world.pusher.answer = Answer(status=410)
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running)
    with pytest.raises(Conflict, match="no result to deliver"):
        await world.jobs.redeliver(job.id)
    world.executor().finish(job.id)
    await world.until(lambda: len(world.pusher.tries) == 1 and not world.outbox.waiting)
    assert (await world.jobs.get(job.id)).delivery.state is DeliveryState.DEAD
    world.pusher.answer = Answer(status=200)
    await world.jobs.redeliver(job.id)
    await world.until(lambda: world.pusher.taken == [f"msg_{job.id}"])


async def test_the_same_experiment_twice_is_one_job_while_it_is_active(world):
    first, again = await asyncio.gather(world.submit(experiment_id="x"), world.submit(experiment_id="x"))
    assert first.id == again.id
    with pytest.raises(Conflict, match="with another body"):
        await world.submit(experiment_id="x", body_sha256="other")
    await world.until(lambda: first.id in world.executor().running)
    world.executor().finish(first.id)
    await world.job_until(first.id, "succeeded")
    fresh = await world.submit(experiment_id="x")
    assert fresh.id != first.id
    assert (await world.jobs.newest("x")).id == fresh.id


async def test_the_same_id_twice_is_one_job_for_ever(world):
    first = await world.submit(job_id="mine")
    await world.jobs.cancel("mine")
    assert (await world.submit(job_id="mine")).id == first.id == "mine"
    with pytest.raises(Conflict, match="exists already"):
        await world.submit(job_id="mine", body_sha256="other")


async def test_the_queues_bound_is_kept(tmp_path):
    async with World(tmp_path, bounds=Bounds(queued=2)).running() as world:
        running = await world.submit()
        await world.until(lambda: running.id in world.executor().running)
        results = await asyncio.gather(*(world.submit() for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(result, QueueFull) for result in results) == 3
        assert world.jobs.refuses


async def test_every_wrong_field_is_named(world):
    world.inspector.inspection = Inspection(errors=(FieldError(field="encoder", message="bad", line=3, column=7),))
    with pytest.raises(InvalidSpec) as refused:
        await world.submit(
            device="tpu", clips=("nope",), metrics=("psnr", "beauty"), field_names={"encoder": "encoding_code"}
        )
    fields = {error.field: error for error in refused.value.errors}
    assert set(fields) == {"device", "clips.0", "metrics.1", "encoding_code"}
    assert fields["encoding_code"].line == 3


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"suite": "nope"}, "suite"),
        ({"frames": FrameRange(start=2)}, "frames"),
        ({"frames": FrameRange(start=0, count=3)}, "frames"),
        ({"clips": ("c", "c")}, "clips.1"),
        ({"deliver_to": "elsewhere"}, "deliver_to"),
    ],
)
async def test_what_does_not_exist_is_refused(world, changes, field):
    with pytest.raises(InvalidSpec) as refused:
        await world.submit(**changes)
    assert [error.field for error in refused.value.errors] == [field]


async def test_a_service_that_stops_takes_nothing(tmp_path):
    async with World(tmp_path).running() as world:
        pass
    with pytest.raises(Draining):
        await world.submit()


async def test_a_second_service_on_the_same_store_is_refused_and_told_who_holds_it(tmp_path):
    async with World(tmp_path).running():
        with pytest.raises(StoreHeld, match="w"):
            async with World(tmp_path).running():
                pass


async def test_waiting_for_the_end(world):
    job = await world.submit()
    waiter = asyncio.create_task(world.jobs.ended(job.id, within_s=60))
    await world.until(lambda: job.id in world.executor().running)
    world.executor().finish(job.id)
    assert (await waiter).status is Status.SUCCEEDED
    with pytest.raises(NotFound):
        await world.jobs.ended("nobody", within_s=1)


async def test_pages(world):
    jobs = [await world.submit(experiment_id=f"x{n}") for n in range(5)]
    page = await world.jobs.page(JobFilter(), limit=3, cursor=None)
    rest = await world.jobs.page(JobFilter(), limit=3, cursor=page.cursor)
    assert [job.id for job in (*page.jobs, *rest.jobs)] == [job.id for job in reversed(jobs)]
    assert rest.cursor is None


async def test_ids_sort_as_the_jobs_were_accepted(world):
    ids = [(await world.submit()).id for _ in range(5)]
    assert ids == sorted(ids) and len(set(ids)) == 5
    assert all(len(job_id) == 26 for job_id in ids)


async def test_an_acceptance_whose_answer_is_lost_is_no_lost_job(world):
    world.store.loses = loses(Status.QUEUED)
    with pytest.raises(StoreUnavailable):
        await world.submit(experiment_id="x")
    again = await world.submit(experiment_id="x")
    await world.until(lambda: again.id in world.executor().running)


async def test_an_acceptance_whose_answer_is_lost_is_found_without_a_retry(world):
    world.store.loses = loses(Status.QUEUED)
    with pytest.raises(StoreUnavailable):
        await world.submit()
    await world.until(lambda: bool(world.executor().running), skip=True)


async def test_a_claim_whose_answer_is_lost_runs_all_the_same(world):
    world.store.loses = loses(Status.RUNNING)
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running, skip=True)
    seen = await world.jobs.get(job.id)
    assert (world.store.lost, seen.attempt, seen.platform_failures) == (1, 2, 0)


async def test_a_retry_whose_answer_is_lost_runs(world):
    world.executor().script = [lost()]
    job = await world.submit()
    world.store.loses = lambda job: job.platform_failures == 1
    await world.until(lambda: job.id in world.executor().running, skip=True)
    assert world.store.lost == 1


async def test_an_executor_that_dies_while_idle_costs_no_retry(world):
    await world.until(lambda: world.board.states["cpu"].free == 1)
    world.executor().cold = [lost(), lost()]
    world.executor().death.set()
    await world.until(lambda: world.board.states["cpu"].broken)
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running, skip=True)
    assert (await world.jobs.get(job.id)).attempt == 1


async def test_a_bug_in_the_slot_itself_does_not_stop_the_lane(world):
    real = world.endings.settle

    async def broken(job_id, event):
        world.endings.settle = real
        raise KeyError("a bug")

    world.endings.settle = broken
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running)
    world.executor().finish(job.id)
    await world.until(lambda: world.executor().ran == [job.id, job.id], skip=True)
    world.executor().finish(job.id)
    done = await world.job_until(job.id, "succeeded")
    assert "KeyError" in done.attempts[0].reason


async def test_two_cancel_requests_are_one(world):
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running)
    await asyncio.gather(*(world.jobs.cancel(job.id) for _ in range(3)))
    ended = await world.job_until(job.id, "cancelled")
    assert world.executor().cancelled == [job.id]
    assert [event.event for event in ended.events].count("CancelRequested") == 1


async def test_a_holder_that_cannot_renew_takes_no_more_jobs(world):
    world.clock.advance(16.0)
    with pytest.raises(StoreAway, match="has not confirmed"):
        await world.submit()


async def test_whoever_waits_is_told_when_the_service_stops(tmp_path):
    async with World(tmp_path).running() as world:
        job = await world.submit()
        waiter = asyncio.create_task(world.jobs.ended(job.id, within_s=60))
        await world.until(lambda: job.id in world.executor().running)
        world.jobs.close("stopping")
        assert (await waiter).status is Status.RUNNING
