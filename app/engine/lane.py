"""One consumer task per lane slot: take a job, run it, write down what came of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from app.domain.errors import BitlaneError, NotFound, PlatformError, StoreUnavailable, WorkerLost
from app.domain.job import ErrorType, Fault, Job
from app.domain.lifecycle import AttemptEvent, Broke, Claimed, Finished, Released, Stopped
from app.engine.board import Board, Running
from app.engine.feed import Feed
from app.engine.jobs import Jobs
from app.ports import Blobs, Clock, Executor, Outcome, Progress, Ready, Succeeded, Work

STORE_PAUSE_S = 1.0
WARM_PAUSE_S = 2.0


class Slot:
    """A lane's slot. It claims only when its executor is warm, so that a broken executor burns nobody's retries."""

    def __init__(
        self,
        *,
        lane: str,
        number: int,
        executor: Executor,
        board: Board,
        jobs: Jobs,
        blobs: Blobs,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._lane = board.states[lane]
        self._number = number
        self._executor = executor
        self._board = board
        self._jobs = jobs
        self._blobs = blobs
        self._feed = feed
        self._clock = clock

    async def consume(self) -> None:
        """For ever: warm up, wait for a job, run it."""
        while True:
            ready = await self._warm()
            self._board.slot_free(self._lane.lane.name)
            job_id = await self._lane.queue.get()
            self._lane.working += 1
            try:
                await self._attempt(job_id, ready)
            finally:
                self._lane.working -= 1

    async def _warm(self) -> Ready:
        while True:
            try:
                ready = await self._executor.warm()
            except PlatformError as error:
                self._lane.broken = str(error)
                await self._clock.sleep(WARM_PAUSE_S)
            else:
                self._lane.broken = None
                self._lane.ready = ready
                return ready

    async def _attempt(self, job_id: str, ready: Ready) -> None:
        try:
            job = await self._claim(job_id, ready)
        except StoreUnavailable:
            await self._clock.sleep(STORE_PAUSE_S)
            await self._put_back(job_id)
            return
        if job is None:
            return
        started = self._clock.monotonic()
        task = asyncio.create_task(self._run(job), name=f"attempt {job.attempt} of {job.id}")
        self._board.start(job.id, Running(task=task))
        try:
            event = await self._outcome(job, task)
        finally:
            del self._board.running[job.id]
        took = self._clock.monotonic() - started
        decision = await self._jobs.apply_surely(job.id, event)
        if decision.job.status.terminal:
            self._lane.ran(took, decision.job.report)

    async def _claim(self, job_id: str, ready: Ready) -> Job | None:
        """The job in its next attempt; None if it was cancelled on its way here."""
        claimed = Claimed(
            at=self._clock.now(),
            lane=self._lane.lane.name,
            slot=self._number,
            device=ready.device,
            device_name=ready.device_name,
        )
        decision = await self._jobs.apply(job_id, claimed)
        return decision.job if decision.changed else None

    async def _put_back(self, job_id: str) -> None:
        while True:
            try:
                self._board.enqueue(await self._jobs.get(job_id))
            except StoreUnavailable:
                await self._clock.sleep(STORE_PAUSE_S)
            else:
                return

    async def _run(self, job: Job) -> Outcome:
        work = Work(
            job_id=job.id,
            attempt=job.attempt,
            spec=job.spec,
            encoder=(await self._blobs.get(job.spec.encoder_sha256)).decode(),
            decoder=(await self._blobs.get(job.spec.decoder_sha256)).decode(),
            lane=self._lane.lane.name,
        )

        def observe(progress: Progress) -> None:
            if (running := self._board.running.get(job.id)) is not None:
                running.progress = progress
                self._feed.changed(job.id)

        return await self._executor.run(work, observe)

    async def _outcome(self, job: Job, task: asyncio.Task[Outcome]) -> AttemptEvent:
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            # The service stops (a cancelled job cancels only ``task``): give the job back.
            task.cancel()
            await asyncio.wait({task})
            event = self._event(job, task, stopped=Released(at=self._clock.now(), attempt=job.attempt))
            with suppress(StoreUnavailable):  # then the next start finds an orphan
                await self._jobs.apply(job.id, event)
            raise
        return self._event(job, task, stopped=Stopped(at=self._clock.now(), attempt=job.attempt))

    def _event(self, job: Job, task: asyncio.Task[Outcome], *, stopped: AttemptEvent) -> AttemptEvent:
        if task.cancelled():
            return stopped
        now = self._clock.now()
        error = task.exception()
        if error is not None:
            return Broke(at=now, attempt=job.attempt, fault=_platform_fault(error))
        outcome = task.result()
        if isinstance(outcome, Succeeded):
            return Finished(at=now, attempt=job.attempt, report=outcome.report)
        return Broke(at=now, attempt=job.attempt, fault=outcome.fault, report=outcome.report)


def _platform_fault(error: BaseException) -> Fault:
    if isinstance(error, WorkerLost):
        return Fault(error_type=ErrorType.WORKER_LOST, message=str(error))
    if isinstance(error, NotFound):
        return Fault(error_type=ErrorType.DEPENDENCY_UNAVAILABLE, message=f"the submission's code is gone: {error}")
    if isinstance(error, BitlaneError):
        return Fault(error_type=ErrorType.DEPENDENCY_UNAVAILABLE, message=str(error))
    return Fault(error_type=ErrorType.INTERNAL_ERROR, message=f"{type(error).__name__}: {error}")
