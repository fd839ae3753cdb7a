"""Deliveries: what is sent when, to a target that takes, refuses, or is not there."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from app.domain.delivery import Answer, DeliveryState
from app.domain.errors import (
    StoreUnavailable,
)
from app.domain.job import Status
from tests.engine.world import World, loses


async def test_a_job_is_run_stored_and_delivered(world):
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running)
    seen = await world.jobs.get(job.id)
    assert seen.status is Status.RUNNING and seen.attempts[0].lane == "cpu"
    assert world.board.running[job.id].progress is not None
    world.executor().finish(job.id)
    await world.until(lambda: world.pusher.taken == [f"msg_{job.id}"])
    done = await world.job_until(job.id, "succeeded")
    await world.until(lambda: not world.outbox.waiting)
    assert (await world.jobs.get(done.id)).delivery.state is DeliveryState.DELIVERED


async def test_the_result_is_in_the_store_before_any_push_is_tried(world):
    seen = []

    async def push(target, webhook_id, payload):
        stored = await world.store.get(payload["job_id"])
        seen.append(stored.status)
        return Answer(status=200)

    world.pusher.push = push
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running)
    world.executor().finish(job.id)
    await world.until(lambda: bool(seen))
    assert seen == [Status.SUCCEEDED]


async def test_an_orchestrator_that_comes_five_minutes_late_gets_everything(world):
    world.pusher.answer = Answer(status=None, error="ConnectError: refused")
    started = world.clock.now()
    jobs = [await world.submit() for _ in range(3)]
    for job in jobs:
        await world.until(lambda job=job: job.id in world.executor().running)
        world.executor().finish(job.id)
        await world.job_until(job.id, "succeeded")
    await world.until(lambda: world.clock.now() - started > 300, skip=True)
    assert not world.pusher.taken
    world.pusher.answer = Answer(status=200)
    await world.until(lambda: len(world.pusher.taken) == 3, skip=True)
    assert sorted(world.pusher.taken) == sorted(f"msg_{job.id}" for job in jobs)
    late = [at for at, _ in world.pusher.tries[-3:]]
    assert late[-1] - late[0] < 1.0, "the first success makes all of them due"


async def test_while_a_target_refuses_one_delivery_probes_for_all(world):
    world.pusher.answer = Answer(status=500)
    jobs = [await world.submit() for _ in range(5)]
    for job in jobs:
        await world.until(lambda job=job: job.id in world.executor().running)
        world.executor().finish(job.id)
        await world.job_until(job.id, "succeeded")
    started = world.clock.now()
    await world.until(lambda: world.clock.now() - started > 300, skip=True)
    tries = [at for at, _ in world.pusher.tries if started < at <= started + 300]
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(tries)), "one at a time"
    counted = [(await world.jobs.get(job.id)).delivery.attempts for job in jobs]
    assert max(counted) <= 5 and sum(counted) < len(tries), "a probe before its time is not held against a delivery"
    assert list(world.outbox.refusing()) == ["default"]


async def test_every_start_makes_all_waiting_deliveries_due(tmp_path):
    world = World(tmp_path)
    world.pusher.answer = Answer(status=503, retry_after_s=7200.0)
    async with world.running():
        job = await world.submit()
        await world.until(lambda: job.id in world.executor().running)
        world.executor().finish(job.id)
        await world.until(lambda: len(world.pusher.tries) == 1)
        await world.job_until(job.id, "succeeded")
        await world.until(lambda: world.outbox.waiting == 1)
    async with World(tmp_path, clock=world.clock).running() as again:
        await again.until(lambda: again.pusher.taken == [f"msg_{job.id}"])


async def test_a_result_whose_answer_is_lost_is_delivered(world):
    world.store.loses = loses(Status.SUCCEEDED)
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running)
    world.executor().finish(job.id)
    await world.until(lambda: world.pusher.taken == [f"msg_{job.id}"], skip=True)
    assert world.store.lost == 1


async def test_a_cancelled_job_whose_answer_is_lost_is_delivered(world):
    blocker, job = await world.submit(), await world.submit()
    await world.until(lambda: blocker.id in world.executor().running)
    world.store.loses = loses(Status.CANCELLED)
    with pytest.raises(StoreUnavailable):
        await world.jobs.cancel(job.id)
    await world.until(lambda: world.pusher.taken == [f"msg_{job.id}"], skip=True)


async def test_a_result_that_cannot_be_sent_does_not_hold_up_others(world):
    real = world.pusher.push

    async def push(target, webhook_id, payload):
        if payload["job_id"] == first.id:
            raise ValueError("not JSON")
        return await real(target, webhook_id, payload)

    world.pusher.push = push
    first, second = await world.submit(), await world.submit()
    for job in (first, second):
        await world.until(lambda job=job: job.id in world.executor().running)
        world.executor().finish(job.id)
    await world.until(lambda: world.pusher.taken == [f"msg_{second.id}"], skip=True)
    assert "not JSON" in (await world.jobs.get(first.id)).delivery.last_error


async def test_sending_again_and_again_does_not_multiply_the_tries(world):
    world.pusher.answer = Answer(status=500)
    job = await world.submit()
    await world.until(lambda: job.id in world.executor().running)
    world.executor().finish(job.id)
    await world.until(lambda: len(world.pusher.tries) == 1)
    await world.job_until(job.id, "succeeded")
    for _ in range(6):
        await world.jobs.redeliver(job.id)
    # Each of them may have been tried at once; from here on there is one schedule: now, 5 s, 30 s, 2 min.
    started = world.clock.now()
    await world.until(lambda: world.clock.now() - started > 300, skip=True)
    assert (await world.jobs.get(job.id)).delivery.attempts <= 5


async def test_pushes_that_fail_together_hold_the_target_as_one(world):
    """Tries that were under way when the target was judged tell nothing new about it."""
    answers = asyncio.Event()

    async def push(target, webhook_id, payload):
        world.pusher.tries.append((world.clock.now(), webhook_id))
        if len(world.pusher.tries) <= 4:
            await answers.wait()
            return Answer(status=500)
        world.pusher.taken.append(webhook_id)
        return Answer(status=200)

    world.pusher.push = push
    started = world.clock.now()
    for job in [await world.submit() for _ in range(4)]:
        await world.until(lambda job=job: job.id in world.executor().running)
        world.executor().finish(job.id)
    await world.until(lambda: len(world.pusher.tries) == 4)
    answers.set()
    await world.until(lambda: len(world.pusher.taken) == 4, skip=True)
    assert world.clock.now() - started < 45


async def test_an_operators_redelivery_probes_a_target_that_is_held(world):
    world.pusher.answer = Answer(status=500, retry_after_s=3600.0)
    first = await world.submit()
    await world.until(lambda: first.id in world.executor().running)
    world.executor().finish(first.id)
    await world.until(lambda: len(world.pusher.tries) == 1)
    await world.job_until(first.id, "succeeded")
    world.pusher.answer = Answer(status=200)
    before = world.clock.now()
    await world.jobs.redeliver(first.id)
    await world.until(lambda: world.pusher.taken == [f"msg_{first.id}"])
    assert world.clock.now() == before
