"""What the chaos harness would say if a promise were broken: it must see each kind of loss."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.domain.delivery import Answer, DeliveryState
from app.domain.job import ErrorType, Fault, Job
from app.domain.lifecycle import Broke, Claimed, Event, Finished, Pushed, decide, submitted
from tests.contracts.store_backends import START, a_job, a_report
from tests.system.chaos import verdict
from tests.system.chaos.load import Book, End
from tests.system.chaos.orchestrator import Push
from tests.system.chaos.summary import Summary

ROOT = Path(__file__).resolve().parents[2]
CLAIMED = Claimed(at=START + 1, lane="cpu", slot=0, device="cpu", device_name="a CPU")
TAKEN = Pushed(at=START + 3, answer=Answer(status=200))


def lived(*events: Event) -> Job:
    job = submitted(a_job("one", deliver_to="default"))
    for event in events:
        job = decide(job, event).job
    return job


def succeeded() -> Job:
    report = a_report()
    lossless = replace(report, points=tuple(replace(point, lossless=True) for point in report.points))
    return lived(CLAIMED, Finished(at=START + 2, attempt=1, report=lossless), TAKEN)


def failed(error_type: ErrorType) -> Job:
    fault = Fault(error_type=ErrorType.EXCEPTION, message="why")
    job = lived(CLAIMED, Broke(at=START + 2, attempt=1, fault=fault), TAKEN)
    return replace(job, fault=replace(fault, error_type=error_type))


@dataclass(slots=True)
class Found:
    """What a campaign found: one honest job that went the whole way."""

    book: Book
    jobs: list[Job]
    pushes: list[Push]

    def judged(self) -> Summary:
        summary = Summary(store="sqlite", seed=0)
        verdict.judge(summary, self.book, self.jobs, self.pushes)
        return summary

    def is_(self, job: Job) -> None:
        self.jobs[:] = [job]


@pytest.fixture
def found() -> Found:
    book = Book(accepted={"one": "honest"})
    return Found(book, [succeeded()], [Push(webhook_id="msg_one", body={"state": "succeeded"})])


def test_a_campaign_in_which_all_went_well(found):
    found.pushes *= 2
    judged = found.judged()
    assert judged.problems == []
    assert (judged.accepted, judged.pushes, judged.repeated_pushes) == (1, 2, 1)
    assert judged.results == {"succeeded": 1} and judged.attempts_ended == {"finished": 1}


def another_content(found: Found) -> None:
    found.pushes.append(Push(webhook_id="msg_one", body={"state": "succeeded", "metrics": {}}))


def another_end(found: Found) -> None:
    found.book.ended["one"] = End("cancelled", None, "2026-01-01T00:00:00.000000Z")


def second_end(found: Found) -> None:
    (job,) = found.jobs
    note = replace(job.events[-1], event="Finished", seq=job.events[-1].seq + 1)
    found.is_(replace(job, events=(*job.events, note)))


def gap(found: Found) -> None:
    (job,) = found.jobs
    found.is_(replace(job, attempts=tuple(replace(one, number=2) for one in job.attempts)))


def pending(found: Found) -> None:
    (job,) = found.jobs
    assert job.delivery is not None
    found.is_(replace(job, delivery=replace(job.delivery, state=DeliveryState.PENDING)))


BREAKS: dict[str, tuple[str, Callable[[Found], object]]] = {
    "no row": ("lost", lambda found: found.jobs.clear()),
    "two rows": ("double", lambda found: found.jobs.append(found.jobs[0])),
    "no end": ("stuck", lambda found: found.is_(lived(CLAIMED))),
    "two ends": ("double", second_end),
    "another end than was shown": ("double", another_end),
    "a gap in the attempts": ("wrong", gap),
    "never delivered": ("lost", lambda found: found.pushes.clear()),
    "not known as delivered": ("stuck", pending),
    "two contents": ("double", another_content),
    "delivered as something else": ("wrong", lambda found: found.pushes[0].body.update(state="failed")),
    "an honest job that failed": ("wrong", lambda found: found.is_(failed(ErrorType.EXCEPTION))),
    "out of retries after one failure": ("wrong", lambda found: found.is_(failed(ErrorType.WORKER_LOST))),
    "a jail lost that nobody killed": ("wrong", lambda found: found.is_(failed(ErrorType.SIGNALLED))),
    "a delivery of no job": ("double", lambda found: found.pushes.append(Push(webhook_id="msg_two", body={}))),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_promise_is_seen(found, name):
    counter, break_it = BREAKS[name]
    break_it(found)
    judged = found.judged()
    assert getattr(judged, counter) > 0 and judged.problems, judged


def test_a_lost_jail_is_no_wrong_result_where_one_was_killed(found):
    found.is_(failed(ErrorType.SIGNALLED))
    found.pushes[0].body.update(state="failed")
    summary = Summary(store="sqlite", seed=0, kills={"jail": 1})
    verdict.judge(summary, found.book, found.jobs, found.pushes)
    assert summary.problems == [] and summary.jails_lost == 1


ORPHAN = """
import json, os, subprocess, time
from app.sandbox import syscalls
from tests.system.chaos import tree
syscalls.set_child_subreaper()
shell = subprocess.run(["sh", "-c", "sleep 60 > /dev/null & echo $!"], stdout=subprocess.PIPE)
orphan = int(shell.stdout)
found = [process.pid for process in tree.adopted(set())]
os.kill(orphan, 9)
while tree.adopted(set()):
    time.sleep(0.01)
print(json.dumps([orphan, found]))
"""


def test_a_process_that_lost_its_parent_is_found():
    done = subprocess.run([sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True, check=True)
    orphan, found = json.loads(done.stdout)
    assert found == [orphan]


def test_half_written_missing_and_damaged_blobs_are_found(tmp_path):
    job = lived()
    (tmp_path / "blobs" / "tmp").mkdir(parents=True)
    (tmp_path / "blobs" / "tmp" / "half").touch()
    (tmp_path / "blobs" / "aa").mkdir()
    (tmp_path / "blobs" / "aa" / ("a" * 64)).write_text("not what it should be")
    told = list(verdict.blobs(tmp_path, [job]))
    assert told == ["half was left half-written", f"blob {'a' * 64} is damaged", "the code of one is gone"]
