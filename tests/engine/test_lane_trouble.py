"""Lanes whose evaluators do not come up: out of service, and back by themselves."""

from __future__ import annotations

from tests.engine.world import World, lost


async def test_a_lane_whose_device_fails_is_out_of_service_and_comes_back_by_itself(tmp_path):
    world = World(tmp_path, lanes="cpu=cpu,gpu=cuda:0")
    async with world.running():
        await world.until(lambda: all(state.free for state in world.board.states.values()))
        gpu = world.executor("gpu")
        anywhere = await world.submit(device="auto")
        await world.until(lambda: anywhere.id in gpu.running)
        gpu.cold = [lost() for _ in range(3)]
        gpu.running[anywhere.id].set_exception(lost())
        there_only = await world.submit(device="gpu")
        await world.until(lambda: anywhere.id in world.executor("cpu").running, skip=True)
        lane = world.board.states["gpu"]
        assert lane.broken and lane.trouble == "the evaluator died"
        assert world.board.wait_s("gpu") is None
        assert (await world.jobs.get(there_only.id)).attempt == 0
        await world.until(lambda: there_only.id in gpu.running, skip=True)
        assert not lane.broken and lane.trouble is None
        assert [one.lane for one in (await world.jobs.get(anywhere.id)).attempts] == ["gpu", "cpu"]


async def test_a_lane_with_one_healthy_slot_is_in_service_and_says_what_the_other_lacks(tmp_path):
    world = World(tmp_path, lanes="cpu=cpu*2")
    world.executor("cpu", 1).cold = [lost() for _ in range(100)]
    async with world.running():
        await world.until(lambda: world.board.states["cpu"].trouble is not None)
        for _ in range(2):
            job = await world.submit()
            await world.until(lambda job=job: job.id in world.executor("cpu", 0).running)
            world.executor("cpu", 0).finish(job.id)
            await world.job_until(job.id, "succeeded")
        assert not world.board.states["cpu"].broken and world.board.states["cpu"].trouble == "the evaluator died"
