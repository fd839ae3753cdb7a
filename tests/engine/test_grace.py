"""A stop: what ends in the grace period, and what is given back."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.delivery import Answer, DeliveryState
from app.domain.errors import Draining
from app.domain.job import Status
from tests.engine.world import World


@pytest.fixture
async def stopping(tmp_path):
    """A world that was told to stop while one job runs and another waits, and the task that ends with its grace."""
    async with World(tmp_path, grace_s=10.0).running() as world:
        running, waiting = await world.submit(), await world.submit()
        await world.until(lambda: running.id in world.executor().running)
        grace = asyncio.create_task(world.service.drain())
        await asyncio.sleep(0)
        yield world, running, waiting, grace
        world.service.hurry()
    assert not world.fatal


async def test_a_job_that_ends_in_the_grace_period_is_stored_and_delivered(stopping):
    world, running, waiting, grace = stopping
    with pytest.raises(Draining, match="stopping"):
        await world.submit()
    world.executor().finish(running.id)
    await grace
    done = await world.jobs.get(running.id)
    assert done.status is Status.SUCCEEDED and done.delivery.state is DeliveryState.DELIVERED
    assert (await world.jobs.get(waiting.id)).attempt == 0


async def test_the_grace_period_does_not_wait_for_an_orchestrator_that_is_away(stopping):
    world, running, _, grace = stopping
    world.pusher.answer = Answer(status=None, error="ConnectError: refused")
    world.executor().finish(running.id)
    await grace
    assert (await world.jobs.get(running.id)).delivery.attempts == 1


@pytest.mark.parametrize("end", ["time", "second signal"])
async def test_what_runs_when_the_grace_period_ends_is_given_back_and_costs_no_retry(tmp_path, end):
    async with World(tmp_path, grace_s=10.0).running() as world:
        job = await world.submit()
        await world.until(lambda: job.id in world.executor().running)
        grace = asyncio.create_task(world.service.drain())
        if end == "time":
            await world.until(grace.done, skip=True)
        else:
            world.service.hurry()
            await grace
        assert job.id in world.executor().running
    async with World(tmp_path, clock=world.clock).running() as again:
        await again.until(lambda: job.id in again.executor().running)
        seen = await again.jobs.get(job.id)
        assert [attempt.ended for attempt in seen.attempts] == ["released", None]
        assert (seen.platform_failures, seen.orphanings) == (0, 0)


async def test_a_job_that_was_picked_as_the_stop_came_is_not_begun(tmp_path):
    async with World(tmp_path).running() as world:
        job = await world.submit()
        world.jobs.close("the service is stopping")
        await world.until(lambda: not world.board.states["cpu"].queue.qsize())
        await asyncio.sleep(0.05)
        assert (await world.jobs.get(job.id)).status is Status.QUEUED
