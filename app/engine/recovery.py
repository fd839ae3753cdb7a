"""What start-up does with the jobs that an earlier process left behind."""

from __future__ import annotations

from app.domain.job import Status
from app.domain.lifecycle import Orphaned
from app.engine.board import Board
from app.engine.endings import Endings
from app.engine.jobs import Jobs
from app.engine.outbox import Outbox
from app.ports import Clock, Store


async def recover(*, store: Store, jobs: Jobs, endings: Endings, board: Board, outbox: Outbox, clock: Clock) -> None:
    """What had ended is written down, queued jobs wait again, running ones were orphaned, and every delivery that is
    still owed is due at once."""
    await endings.recover()
    async for job in store.unfinished():
        if job.status is Status.QUEUED:
            board.enqueue(job)
        elif job.status is Status.RUNNING and not endings.holds(job):
            await jobs.apply(job.id, Orphaned(at=clock.now()))
        elif job.delivery is not None and job.delivery.target is not None:
            outbox.schedule(job.id, job.delivery.target, clock.now())
