"""Ten minutes without the store or the orchestrator, kills meanwhile, and what comes of it; time is simulated."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.delivery import Answer
from app.domain.errors import DiskFull, InvalidSpec, StoreAway, StoreUnavailable
from app.domain.evaluation import Report
from app.domain.job import ErrorType
from app.engine.room import Room
from app.engine.start import Start
from app.ports import Space, Succeeded
from tests.engine.world import REPORT, World, broke

TEN_MINUTES = 600.0


# Simulated time runs on while the real disk is written, more so on a busy machine. What counts is that nobody waits for
# a delivery's own next try, which is many minutes away by then.
SOON = 90


async def running_job(world, **changes):
    # Simulated time may have run ahead of the heartbeats, which are written to a real disk.
    await world.until(lambda: world.jobs.closed is None, skip=True)
    job = await world.submit(**changes)
    await world.until(lambda: job.id in world.executor().running, skip=True)
    return job


async def pass_time(world, seconds):
    """Let simulated time pass, each sleeper waking in its turn."""
    end = world.clock.now() + seconds
    while world.clock.now() < end:
        await asyncio.sleep(0.002)
        world.clock.skip_to_next()


def spooled(world):
    return sorted(path.name for path in (world.data / "spool").glob("*"))


async def test_ten_minutes_without_the_store(world):
    job, queued = await running_job(world), await world.submit()
    world.store.away = True
    world.executor().finish(job.id)
    await world.until(lambda: spooled(world) == [f"{job.id}.1.json", "tmp"])
    since = world.clock.now()
    await pass_time(world, TEN_MINUTES)
    assert world.executor().ran == [job.id], "nothing is claimed while nothing can be written down"
    assert since - 10 < world.jobs.watch.trouble.since <= since + 10
    with pytest.raises(StoreAway, match=r"has not confirmed.*away"):
        await world.submit()
    assert (world.endings.waiting, world.endings.unsafe) == (1, 0)
    world.store.away = False
    back = world.clock.now()
    done = await world.job_until(job.id, "succeeded", skip=True)
    assert (done.attempt, done.report, done.finished_at) == (1, REPORT, done.attempts[0].ended_at)
    await world.until(lambda: world.pusher.taken == [f"msg_{job.id}"])
    await world.until(lambda: queued.id in world.executor().running, skip=True)
    await world.until(lambda: world.jobs.closed is None, skip=True)
    assert world.clock.now() - back < SOON
    await world.until(lambda: spooled(world) == ["tmp"])
    assert world.jobs.watch.trouble is None


async def test_ten_minutes_without_the_orchestrator(world):
    """All that waits is delivered within seconds, not when the schedule of each would have it."""
    world.pusher.answer = Answer(status=None, error="ConnectError: refused")
    jobs = [await running_job(world)]
    world.executor().finish(jobs[0].id)
    for _ in range(4):
        jobs.append(await running_job(world))
        world.executor().finish(jobs[-1].id)
        await pass_time(world, TEN_MINUTES / 4)
    (trouble,) = world.outbox.refusing().values()
    assert "refused" in trouble.last_error and world.clock.now() - trouble.since > TEN_MINUTES - 60
    world.pusher.answer = Answer(status=200)
    back = world.clock.now()
    await world.until(lambda: len(world.pusher.taken) == 5, skip=True)
    assert world.clock.now() - back < SOON
    assert sorted(world.pusher.taken) == sorted(f"msg_{job.id}" for job in jobs)
    assert not world.outbox.refusing()


async def test_an_orchestrator_that_names_a_time_is_left_alone_until_then(world):
    world.pusher.answer = Answer(status=429, retry_after_s=120.0)
    job = await running_job(world)
    world.executor().finish(job.id)
    await world.until(lambda: len(world.pusher.tries) == 1, skip=True)
    await pass_time(world, 119.0)
    assert len(world.pusher.tries) == 1
    world.pusher.answer = Answer(status=200)
    await world.until(lambda: world.pusher.taken == [f"msg_{job.id}"], skip=True)


async def test_an_orchestrator_that_is_away_for_days_is_asked_less_often_and_gives_up_as_ever(world):
    world.pusher.answer = Answer(status=500)
    job = await running_job(world)
    world.executor().finish(job.id)
    await world.until(lambda: len(world.pusher.tries) == 1, skip=True)
    for _ in range(12):
        delivery = (await world.jobs.get(job.id)).delivery
        if delivery.next_at is None:
            break
        world.clock.advance(max(0.0, delivery.next_at - world.clock.now()))
        tries = len(world.pusher.tries)
        await world.until(lambda tries=tries: len(world.pusher.tries) > tries, skip=True)
        await world.until(lambda: not world.outbox._targets["default"].under_way)
    assert ((await world.jobs.get(job.id)).delivery.state, delivery.attempts) == ("dead", 11)


async def killed_while_the_store_is_away(tmp_path, *, then=lambda world, job: None):
    """A job whose attempt ended while the store was away, in a service that is gone; and that service's clock."""
    world = World(tmp_path)
    async with world.running():
        job = await running_job(world)
        world.store.away = True
        then(world, job)
        await world.until(lambda: f"{job.id}.1.json" in spooled(world), skip=True)
    return job, world.clock


async def test_what_had_ended_is_no_orphan_after_a_restart(tmp_path):
    job, clock = await killed_while_the_store_is_away(tmp_path, then=lambda world, job: world.executor().finish(job.id))
    async with World(tmp_path, clock=clock).running() as again:
        done = await again.jobs.get(job.id)
        assert (done.status, done.attempt, done.orphanings) == ("succeeded", 1, 0)
        await again.until(lambda: again.pusher.taken == [f"msg_{job.id}"])
        assert again.executor().ran == [] and spooled(again) == ["tmp"]


async def test_a_failure_is_kept_with_its_reason(tmp_path):
    def fail(world, job):
        world.executor().finish(job.id, broke(ErrorType.EXCEPTION, "boom"))

    job, clock = await killed_while_the_store_is_away(tmp_path, then=fail)
    async with World(tmp_path, clock=clock).running() as again:
        done = await again.jobs.get(job.id)
        assert (done.status, done.fault.message) == ("failed", "boom")


async def test_a_job_given_back_at_a_stop_without_the_store_costs_nothing(tmp_path):
    world = World(tmp_path)
    async with world.running():
        job = await running_job(world)
        world.store.away = True
    assert spooled(world) == [f"{job.id}.1.json", "tmp"]
    async with World(tmp_path, clock=world.clock).running() as again:
        await again.until(lambda: job.id in again.executor().running)
        seen = await again.jobs.get(job.id)
        assert (seen.orphanings, [attempt.ended for attempt in seen.attempts]) == (0, ["released", None])


async def test_an_end_of_an_attempt_that_is_over_changes_nothing(tmp_path):
    """The file of a first attempt that comes back while the second runs: its number fences it out."""
    job, clock = await killed_while_the_store_is_away(tmp_path, then=lambda world, job: world.executor().finish(job.id))
    path = tmp_path / "spool" / f"{job.id}.1.json"
    text = path.read_bytes()
    path.unlink()
    world = World(tmp_path, clock=clock)
    async with world.running():
        await world.until(lambda: job.id in world.executor().running)
        assert (await world.jobs.get(job.id)).attempt == 2
    path.write_bytes(text)
    async with World(tmp_path, clock=clock).running() as again:
        await again.until(lambda: job.id in again.executor().running)
        assert (await again.jobs.get(job.id)).attempt == 3
        assert spooled(again) == ["tmp"]


async def test_files_that_nobody_wants_never_stop_a_start(tmp_path):
    job, clock = await killed_while_the_store_is_away(tmp_path, then=lambda world, job: world.executor().finish(job.id))
    text = (tmp_path / "spool" / f"{job.id}.1.json").read_text()
    (tmp_path / "spool" / "nobody.1.json").write_text(text.replace(job.id, "nobody"))
    (tmp_path / "spool" / "damaged.1.json").write_text(text[:50])
    later = text.replace('"attempt":1', '"attempt":9')
    (tmp_path / "spool" / f"{job.id}.9.json").write_text(later)
    async with World(tmp_path, clock=clock).running() as again:
        assert (await again.jobs.get(job.id)).status == "succeeded"
        assert again.endings.damaged == ("damaged.1.json.damaged",)
        assert {name: text.split(":")[0] for (name, _), text in again.endings.unwanted.items()} == {
            "nobody": "NotFound"
        }
        assert again.endings.waiting == 0
        assert spooled(again) == ["damaged.1.json.damaged", "nobody.1.json", "tmp"]


async def test_a_disk_that_is_full_too_keeps_the_end_in_memory(world):
    job = await running_job(world)
    real = world.spool._put

    def full(spooled):
        raise DiskFull("no room")

    world.spool._put = full
    world.store.away = True
    world.executor().finish(job.id)
    await world.until(lambda: world.endings.unsafe == 1, skip=True)
    assert world.endings.spool_error == "no room"
    world.spool._put = real
    await world.until(lambda: world.endings.unsafe == 0, skip=True)
    assert world.endings.waiting == 1 and f"{job.id}.1.json" in spooled(world)
    world.store.away = False
    assert (await world.job_until(job.id, "succeeded", skip=True)).attempt == 1


async def test_an_end_that_the_store_refuses_holds_up_no_other(tmp_path):
    world = World(tmp_path, lanes="cpu=cpu*2")
    async with world.running():
        first, second = await world.submit(), await world.submit()
        await world.until(lambda: world.board.running.keys() == {first.id, second.id}, skip=True)
        world.store.refuses = first.id
        for executor in world.executors["cpu"]:
            for job_id in list(executor.running):
                executor.finish(job_id)
        await world.job_until(second.id, "succeeded", skip=True)
        third = await world.submit()
        await world.until(lambda: any(third.id in executor.running for executor in world.executors["cpu"]), skip=True)
        assert (await world.jobs.get(first.id)).status == "running"
        world.store.refuses = None
        await world.job_until(first.id, "succeeded", skip=True)


async def test_a_report_that_cannot_be_written_down_later_fails_the_job_with_the_reason(world):
    job = await running_job(world)
    world.store.away = True
    unwritable = Report(points=(), provenance={"text": "\ud800"})
    world.executor().finish(job.id, Succeeded(report=unwritable))
    await world.until(lambda: world.endings.waiting == 1, skip=True)
    world.store.away = False
    await world.until(lambda: world.executor().ran == [job.id] * 2, skip=True)
    failed = await world.jobs.get(job.id)
    assert "could not be stored" in failed.attempts[0].reason and "InvalidSpec" in failed.attempts[0].reason


async def test_a_slow_store_is_a_refusal_in_bounded_time_and_never_a_false_acceptance(world):
    world.jobs.watch.answer_s = 0.2
    world.store.slow = asyncio.Event()
    asked = asyncio.create_task(world.submit(job_id="mine"))
    with pytest.raises(StoreAway, match="not answered within"):
        await asyncio.wait_for(asked, 10)
    world.store.slow.set()
    await world.until(lambda: "mine" in world.executor().running, skip=True)
    assert (await world.submit(job_id="mine")).id == "mine"


async def test_a_write_that_comes_through_late_is_still_looked_for(world):
    """Its answer was lost, it is not there at the first look, and then it is."""
    world.store.delays = True
    with pytest.raises(StoreUnavailable):
        await world.submit()
    await pass_time(world, 20.0)
    assert not world.executor().ran
    await world.store.arrive()
    await world.until(lambda: len(world.executor().ran) == 1, skip=True)


class OneDisk:
    def __init__(self):
        self.free_bytes = 100

    async def space(self):
        return Space(free_bytes=self.free_bytes, total_bytes=1000)


async def test_the_last_of_the_disk_is_for_results(world):
    disk = OneDisk()
    world.jobs.room = Room(disk, world.clock, reserve_bytes=50, warn_bytes=200)
    job = await running_job(world)
    assert "free" in await world.jobs.room.warning()
    disk.free_bytes = 49
    world.clock.advance(2.0)
    with pytest.raises(DiskFull, match="kept for results"):
        await world.submit()
    world.executor().finish(job.id)
    await world.job_until(job.id, "succeeded", skip=True)
    disk.free_bytes = 500
    world.clock.advance(2.0)
    await world.submit()
    assert await world.jobs.room.warning() is None


class Opening:
    """A service that can be opened once the errors are used up."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.entered = self.left = 0

    def __call__(self):
        return self

    async def __aenter__(self):
        if self.errors:
            raise self.errors.pop(0)
        self.entered += 1

    async def __aexit__(self, *failure):
        self.left += 1


async def test_a_start_waits_for_what_may_come_back_and_for_nothing_else(world):
    told, fatal = [], []
    opening = Opening(StoreAway("away"), StoreAway("away"), DiskFull("full"))
    async with Start(opening, clock=world.clock, tell=told.append, on_fatal=fatal.append) as start:
        assert start.waits_for == "away"
        await world.until(lambda: start.waits_for is None, skip=True)
    assert (opening.entered, opening.left, fatal) == (1, 1, [])
    assert told == [
        "the service cannot start yet: away",
        "the service cannot start yet: full",
        "the service has started",
    ]
    wrong = InvalidSpec([])
    with pytest.raises(InvalidSpec):
        async with Start(Opening(wrong), clock=world.clock, tell=told.append, on_fatal=fatal.append):
            pass
    with pytest.raises(StoreUnavailable, match="no table"):
        async with Start(
            Opening(StoreUnavailable("no table")), clock=world.clock, tell=told.append, on_fatal=fatal.append
        ):
            pass
    assert [str(error) for error in fatal] == ["no table"]
    # What waiting would not mend may show only once the store is back.
    late = Opening(StoreAway("away"), StoreUnavailable("no table"))
    with pytest.raises(StoreUnavailable):
        async with Start(late, clock=world.clock, tell=told.append, on_fatal=fatal.append):
            await world.until(lambda: len(fatal) == 2, skip=True)


async def test_a_start_that_waits_can_be_stopped(world):
    opening = Opening(*[StoreAway("away")] * 1000)
    async with Start(opening, clock=world.clock, tell=lambda text: None, on_fatal=lambda error: None):
        pass
    assert opening.entered == 0
