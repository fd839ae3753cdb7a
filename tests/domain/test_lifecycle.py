"""The state machine: its invariants over random histories, then its rows one by one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.delivery import Answer, DeliveryState
from app.domain.errors import IllegalTransition
from app.domain.evaluation import Report
from app.domain.job import EVENTS_KEPT, Blame, ErrorType, Fault, Job, JobSpec, Status
from app.domain.lifecycle import (
    MAX_ORPHANINGS,
    MAX_PLATFORM_FAILURES,
    TABLE,
    Broke,
    CancelRequested,
    Claimed,
    Deliver,
    Enqueue,
    Event,
    Finished,
    Orphaned,
    Pushed,
    RedeliverRequested,
    Released,
    StopAttempt,
    Stopped,
    Withdraw,
    decide,
    submitted,
)

SPEC = JobSpec(encoder_sha256="e" * 64, decoder_sha256="d" * 64, contract="native", body_sha256="b" * 64)
REPORT = Report(points=())
CODE = Fault(error_type=ErrorType.EXCEPTION, message="it raised")
LIMIT = Fault(error_type=ErrorType.MEMORY_LIMIT, message="too much")
PLATFORM = Fault(error_type=ErrorType.WORKER_LOST, message="it died")


def new_job(deliver_to: str | None = "default") -> Job:
    return submitted(Job(id="j", experiment_id="x", spec=SPEC, created_at=1.0, deliver_to=deliver_to))


def claimed(at: float = 2.0) -> Claimed:
    return Claimed(at=at, lane="cpu", slot=0, device="cpu", device_name="a CPU")


def running() -> Job:
    return decide(new_job(), claimed()).job


def cancelling() -> Job:
    return decide(running(), CancelRequested(at=3.0)).job


# One byte is one event: drawing bytes is what lets 10,000 histories run in seconds. An attempt number is relative to
# the newest: 0 is the running one, -1 a late writer's.
MAKERS = (
    lambda job, at, back: claimed(at),
    lambda job, at, back: CancelRequested(at=at),
    lambda job, at, back: Finished(at=at, attempt=job.attempt + back, report=REPORT),
    lambda job, at, back: Broke(at=at, attempt=job.attempt + back, fault=CODE),
    lambda job, at, back: Broke(at=at, attempt=job.attempt + back, fault=LIMIT),
    lambda job, at, back: Broke(at=at, attempt=job.attempt + back, fault=PLATFORM),
    lambda job, at, back: Released(at=at, attempt=job.attempt + back),
    lambda job, at, back: Stopped(at=at, attempt=job.attempt + back),
    lambda job, at, back: Orphaned(at=at),
    lambda job, at, back: Pushed(at=at, answer=Answer(status=200)),
    lambda job, at, back: Pushed(at=at, answer=Answer(status=500), jitter=0.5),
    lambda job, at, back: Pushed(at=at, answer=Answer(status=410)),
    lambda job, at, back: RedeliverRequested(at=at, target="default"),
)
# A history must get past claiming often: events that lead on come first in the byte's range more than once.
WEIGHTED = (0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 10, 11, 12)
LATE = 4
# Events that keep a job going for long: claims, deaths of the service, now and then anything else.
LIVELY = (*[0] * 60, *[13] * 60, *range(19))


def event_of(byte: int, job: Job, at: float) -> Event:
    late, kind = divmod(byte, len(WEIGHTED))
    return MAKERS[WEIGHTED[kind]](job, at, -1 if late % LATE == LATE - 1 else 0)


@settings(max_examples=10_000, deadline=None)
@given(st.binary(max_size=40))
def test_invariants_hold_over_random_histories(history):
    job = new_job()
    cancel_asked = False
    deliveries = 0
    for step, byte in enumerate(history):
        event = event_of(byte, job, 2.0 + step)
        before = job
        try:
            decision = decide(job, event)
        except IllegalTransition:
            continue
        job = decision.job
        check_one_step(before, event, job, decision.changed)
        if isinstance(event, CancelRequested):
            cancel_asked = True
        if not before.status.terminal and job.status.terminal:
            deliveries += 1
            assert [effect for effect in decision.effects if isinstance(effect, Deliver)] != []
        if job.status is Status.CANCELLED:
            assert cancel_asked
    assert job.platform_failures <= MAX_PLATFORM_FAILURES
    assert job.orphanings <= MAX_ORPHANINGS
    assert deliveries == (1 if job.status.terminal else 0)
    assert (job.delivery is not None) == job.status.terminal
    assert [attempt.number for attempt in job.attempts] == list(range(1, job.attempt + 1))
    assert all(attempt.ended_at is not None for attempt in job.attempts[:-1])
    assert [event.seq for event in job.events] == list(
        range(job.events[-1].seq - len(job.events) + 1, job.events[-1].seq + 1)
    )


def check_one_step(before: Job, event: Event, after: Job, changed: bool) -> None:
    if not changed:
        assert after is before
    if before.status.terminal:
        assert after.status is before.status
        assert (after.report, after.fault, after.attempts) == (before.report, before.fault, before.attempts)
    if isinstance(event, Finished | Broke | Released | Stopped) and event.attempt != before.attempt:
        assert after is before
    assert len(after.attempts) >= len(before.attempts)
    assert len(after.events) <= EVENTS_KEPT
    if after.status is Status.FAILED:
        assert after.fault is not None
    if after.status is Status.SUCCEEDED:
        assert after.report is not None and after.fault is None


def test_a_job_that_goes_well():
    job = running()
    assert (job.status, job.attempt, job.attempts[0].lane) == (Status.RUNNING, 1, "cpu")
    decision = decide(job, Finished(at=9.0, attempt=1, report=REPORT))
    assert decision.job.status is Status.SUCCEEDED
    assert decision.job.report is REPORT
    assert decision.job.finished_at == 9.0
    assert decision.job.attempts[0].ended == "finished"
    assert decision.effects == (Deliver(job_id="j", target="default", at=9.0),)
    assert decision.job.delivery is not None and decision.job.delivery.id == "msg_j"


def test_cancelling_a_queued_job_ends_it_and_takes_it_from_the_queue():
    decision = decide(new_job(), CancelRequested(at=3.0, actor="ann"))
    assert decision.job.status is Status.CANCELLED
    assert decision.effects == (Withdraw(job_id="j"), Deliver(job_id="j", target="default", at=3.0))
    assert decision.job.events[-1].actor == "ann"


def test_cancelling_a_running_job_stops_its_attempt():
    decision = decide(running(), CancelRequested(at=3.0))
    assert decision.job.status is Status.RUNNING
    assert decision.effects == (StopAttempt(job_id="j", attempt=1),)
    assert decide(decision.job, Stopped(at=4.0, attempt=1)).job.status is Status.CANCELLED


def test_a_second_cancel_request_only_repeats_the_effect():
    again = decide(cancelling(), CancelRequested(at=4.0))
    assert again.effects == (StopAttempt(job_id="j", attempt=1),)
    assert not again.changed


@pytest.mark.parametrize(
    "event", [Released(at=5.0, attempt=1), Orphaned(at=5.0), Broke(at=5.0, attempt=1, fault=PLATFORM)]
)
def test_with_the_flag_set_a_job_that_would_wait_again_is_cancelled(event):
    assert decide(cancelling(), event).job.status is Status.CANCELLED


def test_a_result_that_was_faster_than_the_cancel_request_counts():
    assert decide(cancelling(), Finished(at=5.0, attempt=1, report=REPORT)).job.status is Status.SUCCEEDED
    assert decide(cancelling(), Broke(at=5.0, attempt=1, fault=CODE)).job.status is Status.FAILED


def test_nobody_is_stopped_without_a_request():
    with pytest.raises(IllegalTransition, match="Stopped cannot happen while running"):
        decide(running(), Stopped(at=3.0, attempt=1))


@pytest.mark.parametrize("fault", [CODE, LIMIT])
def test_a_fault_of_the_submission_is_not_retried(fault):
    decision = decide(running(), Broke(at=3.0, attempt=1, fault=fault, report=REPORT))
    assert decision.job.status is Status.FAILED
    assert decision.job.fault is fault
    assert decision.job.report is REPORT


def test_platform_failures_are_retried_until_they_run_out():
    job = new_job()
    for number in range(1, MAX_PLATFORM_FAILURES):
        job = decide(job, claimed()).job
        decision = decide(job, Broke(at=3.0, attempt=number, fault=PLATFORM))
        assert decision.effects == (Enqueue(job_id="j"),)
        job = decision.job
    job = decide(decide(job, claimed()).job, Broke(at=3.0, attempt=MAX_PLATFORM_FAILURES, fault=PLATFORM)).job
    assert job.status is Status.FAILED
    assert job.fault is PLATFORM and job.fault.blame is Blame.PLATFORM


def test_a_shutdown_and_a_death_of_the_service_cost_no_retry():
    job = decide(running(), Released(at=3.0, attempt=1)).job
    job = decide(decide(job, claimed()).job, Orphaned(at=4.0)).job
    assert (job.status, job.platform_failures, job.orphanings) == (Status.QUEUED, 0, 1)
    assert [attempt.ended for attempt in job.attempts] == ["released", "orphaned"]


def test_a_job_that_is_orphaned_for_ever_ends():
    job = new_job()
    for _ in range(MAX_ORPHANINGS):
        job = decide(decide(job, claimed()).job, Orphaned(at=4.0)).job
    assert job.status is Status.FAILED
    assert job.fault is not None and job.fault.error_type is ErrorType.WORKER_LOST


def test_the_attempts_number_fences_out_late_writers():
    job = decide(decide(running(), Orphaned(at=3.0)).job, claimed()).job
    late = decide(job, Finished(at=5.0, attempt=1, report=REPORT))
    assert not late.changed and late.job is job
    with pytest.raises(IllegalTransition, match="no attempt 3"):
        decide(job, Finished(at=5.0, attempt=3, report=REPORT))


def test_a_late_writer_cannot_touch_a_job_that_waits_again():
    job = decide(running(), Released(at=3.0, attempt=1)).job
    assert not decide(job, Finished(at=5.0, attempt=1, report=REPORT)).changed


def test_a_running_job_cannot_be_claimed():
    with pytest.raises(IllegalTransition):
        decide(running(), claimed())


def test_without_a_target_the_delivery_says_so_and_nothing_is_due():
    job = decide(new_job(deliver_to=None), CancelRequested(at=3.0)).job
    assert job.delivery is not None and job.delivery.state is DeliveryState.NONE
    assert not job.unfinished
    later = decide(job, RedeliverRequested(at=4.0, target="default"))
    assert later.effects == (Deliver(job_id="j", target="default", at=4.0),)
    assert later.job.unfinished


def test_a_delivery_needs_a_result():
    with pytest.raises(IllegalTransition):
        decide(running(), RedeliverRequested(at=4.0, target="default"))


def test_a_push_that_comes_back_after_the_delivery_was_settled_changes_nothing():
    job = decide(running(), Finished(at=9.0, attempt=1, report=REPORT)).job
    job = decide(job, Pushed(at=10.0, answer=Answer(status=200))).job
    assert job.delivery is not None and job.delivery.state is DeliveryState.DELIVERED
    assert not decide(job, Pushed(at=11.0, answer=Answer(status=500))).changed


def test_random_histories_reach_every_row_of_the_table():
    random, reached = Random(0), set()
    for _ in range(500):
        job = new_job()
        for step in range(120):
            event = event_of(random.choice(LIVELY), job, 2.0 + step)
            taken = [row for row in TABLE if row.source is job.status and isinstance(event, row.event)]
            taken = [row for row in taken if row.guard(job, event)][:1]
            with suppress(IllegalTransition):
                decision = decide(job, event)
                if decision.changed and taken:
                    assert decision.job.status is taken[0].target
                    reached.add(TABLE.index(taken[0]))
                job = decision.job
    assert reached == set(range(len(TABLE)))


def test_old_events_are_dropped_and_numbers_go_on():
    job = new_job()
    for _ in range(EVENTS_KEPT):
        job = decide(job, claimed()).job
        job = decide(job, Released(at=3.0, attempt=job.attempt)).job
    assert len(job.events) == EVENTS_KEPT
    assert job.events[-1].seq == 2 * EVENTS_KEPT + 1
    assert replace(job, events=()) != job
