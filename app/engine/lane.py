"""One consumer task per lane slot: take a job, run it, write down what came of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from app.domain.errors import BitlaneError, NotFound, PlatformError, StoreUnavailable, WorkerLost
from app.domain.job import Blame, ErrorType, Fault, Job, Status
from app.domain.lifecycle import AttemptEvent, Broke, Claimed, Finished, Released, Stopped
from app.engine.board import Board, Running
from app.engine.endings import Endings
from app.engine.jobs import Jobs
from app.ports import Blobs, Clock, Executor, Outcome, Progress, Ready, Succeeded, Work

STORE_PAUSE_S = 1.0
TROUBLE_PAUSE_S = 2.0
MOST_PAUSE_S = 30.0


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
        endings: Endings,
        blobs: Blobs,
        clock: Clock,
    ) -> None:
        self._lane = board.states[lane]
        self._number = number
        self._executor = executor
        self._board = board
        self._jobs = jobs
        self._endings = endings
        self._blobs = blobs
        self._clock = clock

    async def consume(self) -> None:
        """For ever: warm up, wait for a job, run it. What goes wrong with one job does not end the slot."""
        while True:
            await self._warm()
            job_id = await self._next()
            # One that was picked in the moment in which the service was told to stop has not been begun.
            if job_id is None or self._board.closed:
                continue
            with self._board.working(self._lane.lane.name):
                await self._serve(job_id)

    async def _serve(self, job_id: str) -> None:
        try:
            await self._attempt(job_id)
        except Exception as error:  # noqa: BLE001 - a bug that one job brings out must not stop the lane
            self._lane.troubles[self._number] = f"{type(error).__name__}: {error}"
            await self._clock.sleep(TROUBLE_PAUSE_S)
            await self._give_back(job_id, _platform_fault(error))
        finally:
            self._board.forget(job_id)

    async def _warm(self) -> None:
        """However often it takes: a slot that cannot be used comes back by itself once it can.

        The pauses get longer, since each try to start an evaluator takes seconds of a core from the other lanes.
        """
        pause_s = TROUBLE_PAUSE_S
        while True:
            try:
                self._lane.ready = await self._executor.warm()
            except PlatformError as error:
                self._lane.troubles[self._number] = str(error)
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, MOST_PAUSE_S)
            else:
                self._lane.troubles.pop(self._number, None)
                return

    async def _next(self) -> str | None:
        """The job that was picked for this slot; None if the executor died while there was none."""
        name = self._lane.lane.name
        self._board.slot_free(name)
        picked = asyncio.create_task(self._lane.queue.get())
        gone = asyncio.create_task(self._executor.gone())
        try:
            await asyncio.wait({picked, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not picked.done() and self._board.slot_lost(name):
                return None
            return await picked
        finally:
            picked.cancel()
            gone.cancel()

    async def _attempt(self, job_id: str) -> None:
        try:
            ready = await self._executor.warm()
            job = await self._claim(job_id, ready)
        except PlatformError:
            # Nothing has run: the job waits again, and the loop finds out whether the executor is well.
            await self._clock.sleep(STORE_PAUSE_S)
            await self._give_back(job_id, None)
            return
        if job is None:
            return
        started = self._clock.monotonic()
        task = asyncio.create_task(self._run(job), name=f"attempt {job.attempt} of {job.id}")
        self._board.start(job.id, Running(task=task))
        event = await self._outcome(job, task)
        took = self._clock.monotonic() - started
        if isinstance(event, Broke) and event.fault.blame is Blame.PLATFORM:
            await self._clock.sleep(STORE_PAUSE_S)
        self._board.forget(job.id)
        decision = await self._endings.settle(job.id, event)
        if decision is not None and decision.job.status.terminal:
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

    async def _give_back(self, job_id: str, fault: Fault | None) -> None:
        """Let the job wait again. An attempt that was begun has ended with ``fault``, or was released without one."""
        self._board.forget(job_id)
        while True:
            try:
                job = await self._jobs.get(job_id)
                newest = job.attempts[-1] if job.attempts else None
                if job.status is Status.QUEUED:
                    self._board.enqueue(job)
                elif job.status is Status.RUNNING and newest is not None and self._mine(newest.lane, newest.slot):
                    now, number = self._clock.now(), job.attempt
                    released = Released(at=now, attempt=number)
                    await self._jobs.apply(
                        job_id, released if fault is None else Broke(at=now, attempt=number, fault=fault)
                    )
            except StoreUnavailable:
                await self._clock.sleep(STORE_PAUSE_S)
            else:
                return

    def _mine(self, lane: str, slot: int) -> bool:
        return (lane, slot) == (self._lane.lane.name, self._number)

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

        return await self._executor.run(work, observe)

    async def _outcome(self, job: Job, task: asyncio.Task[Outcome]) -> AttemptEvent:
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            # The service stops (a cancelled job cancels only ``task``): give the job back.
            task.cancel()
            await asyncio.wait({task})
            event = self._event(job, task, stopped=Released(at=self._clock.now(), attempt=job.attempt))
            with suppress(PlatformError):  # then the next start finds an orphan
                await self._endings.settle(job.id, event)
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
