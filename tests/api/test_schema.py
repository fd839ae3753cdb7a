"""Whatever the OpenAPI document allows or forbids is sent, and every answer is one that the document promises."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from schemathesis.engine import events, from_schema

from tests.api.test_access import calling, new_key
from tests.service import DECODER, ENCODER, Bitlane, spec

SEED = 20261125
PHASES = ("examples", "coverage", "fuzzing", "stateful")
SUBMITTING = frozenset({"POST /jobs", "PUT /jobs/{job_id}", "POST /experiment"})

# A schema cannot say what of these is taken: whether a text is Python that defines a known contract, and which lanes,
# suites, clips, metrics and targets this service has, how long its clips are and what its operator lets a job use; what
# is offered at all in this version; how deep parameters may nest; that an anchor is one of the jobs that were named. A
# cursor is one that a list gave. A refusal that
# names no other field is no failure of ``positive_data_acceptance``; one that names any other is.
CODE = {"encoder", "decoder", "encoding_agent_code", "decoding_agent_code", "encoding_code", "decoding_code"}
NAMES = {"contract", "device", "suite", "clips", "metrics", "deliver_to", "baselines", "targets"}
WORDS = {"config", "rate_points", "hypothesis", "compression_strategy", "expected_bitrate_mbps", "timestamp"}
REFUSED_BY_MEANING = CODE | NAMES | WORDS | {"frames", "limits", "cursor"} | {"anchor", "metric"}


@dataclass
class Outcome:
    """What was sent, how it was answered, and what failed."""

    cases: int = 0
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, recorder: Any) -> None:
        self.cases += len(recorder.interactions)
        for case_id, interaction in recorder.interactions.items():
            label = recorder.cases[case_id].value.operation.label
            status = interaction.response.status_code if interaction.response else 0
            self.statuses.setdefault(label, Counter())[status] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    answer = recorder.interactions[case_id].response
                    told = f"{answer.status_code} {answer.content[:500]!r}" if answer else "no answer"
                    name = f"{failure.operation}: {check.name}: {failure.title}"
                    self.failures.setdefault(name, f"{failure.message}\n{check.failure_info.code_sample}\n{told}")

    def __str__(self) -> str:
        return f"{self.cases} cases\n" + "\n\n".join(f"{name}\n{text}" for name, text in self.failures.items())


def explore(
    service: Bitlane,
    *,
    examples: int,
    phases: tuple[str, ...] = PHASES,
    seed: int = SEED,
    key: str | None = None,
    without: str | None = None,
) -> Outcome:
    """Send ``examples`` of each operation in the phases that draw, all of what the others have, with all checks."""
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "base-url": service.url,
            "request-timeout": 60,
            "continue-on-failure": True,
            "headers": {} if key is None else {"Authorization": f"Bearer {key}"},
            "generation": {"max-examples": examples, "no-shrink": True, "database": "none"},
            "phases": {name: {"enabled": name in phases} for name in PHASES},
        }
    )
    document = service.http.get("/openapi.json").raise_for_status().json()
    schema = schemathesis.openapi.from_dict(document, config=config)
    if without is not None:
        schema = schema.exclude(path_regex=without)
    outcome = Outcome()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            outcome.add(event.recorder)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            outcome.failures["the run itself"] = str(getattr(event, "info", None) or getattr(event, "exception", event))
    return outcome


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    """The library has one place for such hooks, for all of its users in this process."""
    hooks = {"before_call": _make_honest, "filter_failure": _counts}
    for name, hook in hooks.items():
        schemathesis.hook(name)(hook)
    yield
    for hook in hooks.values():
        schemathesis.hooks.unregister(hook)


def _make_honest(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Nobody waits long, and every second well-formed submission has code and names that are taken."""
    if case.operation.path.endswith("/events"):
        # A stream goes on for as long as its job does; what it holds is ``test_events``'s matter.
        case.headers["accept"] = "application/json"
    query = case.query or {}
    with suppress(ValueError, TypeError, KeyError):
        if 0.05 < float(query["wait"]) <= 60:
            query["wait"] = 0.05
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    body = case.body
    if not (positive and case.operation.label in SUBMITTING and isinstance(body, dict) and len(str(body)) % 2):
        return
    old = case.operation.label == "POST /experiment"
    for name in (CODE | NAMES | {"frames", "limits"}) & set(body):
        del body[name]
    body |= {"encoding_agent_code": ENCODER, "decoding_agent_code": DECODER} if old else spec()


def _counts(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure is one; what else would be is said at ``REFUSED_BY_MEANING``."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code not in (400, 422):
        return True
    told = response.json()
    if told.get("error_type") == "idempotency_key_reused" or "another body" in told.get("error", ""):
        return False
    named = [error["field"] for error in told.get("errors", ())]
    if "error" in told:
        named = [told["error"].partition(":")[0]]
    return not named or any(name.split(".")[0].split(" ")[0] not in REFUSED_BY_MEANING for name in named)


@pytest.fixture
def paused(tmp_path) -> Iterator[Bitlane]:
    """A service that accepts jobs and runs none."""
    with Bitlane(tmp_path / "data", lanes="cpu=cpu") as service:
        service.http.post("/lanes/cpu/pause").raise_for_status()
        yield service


RUNS_JOBS = r"^/lanes/.*/(resume|drain)$"


def test_every_answer_is_one_that_the_document_promises(paused):
    outcome = explore(paused, examples=8, without=RUNS_JOBS)
    assert not outcome.failures, str(outcome)
    assert outcome.cases >= 500
    for submitting in SUBMITTING:
        assert outcome.statuses[submitting][202], "some of what is sent has to be taken"
    assert paused.submit(experiment_id="honest")["state"] == "queued"


def test_of_an_orchestrator_too(tmp_path):
    with Bitlane(tmp_path / "data", lanes="none") as service:
        outcome = explore(service, examples=6, phases=("fuzzing", "stateful"))
        assert not outcome.failures, str(outcome)
        assert {"POST /lanes/{name}/resume", "POST /lanes/{name}/drain"} <= set(outcome.statuses)
        assert service.http.get("/readyz").status_code == 200


@pytest.fixture
def guarded(tmp_path) -> Iterator[tuple[Bitlane, str]]:
    key = new_key(tmp_path / "data", "alice")
    env = {"BITLANE_LEGACY_NETWORKS": "192.0.2.0/24", "BITLANE_PUSH_SECRET": "push-secret-6f1c"}
    with Bitlane(tmp_path / "data", lanes="cpu=cpu", env=env, key=key) as service:
        admin = new_key(service.data, "boss", "--scope", "admin")
        with calling(service, admin) as client:
            client.post("/lanes/cpu/pause").raise_for_status()
        yield service, key


def test_with_a_key(guarded):
    """``ignored_auth`` asks each operation again without the key and with a wrong one."""
    service, key = guarded
    outcome = explore(service, examples=5, phases=("examples", "fuzzing", "stateful"), key=key)
    assert not outcome.failures, str(outcome)
    assert outcome.statuses["POST /jobs"][202] and set(outcome.statuses["POST /lanes/{name}/pause"]) <= {403, 422}
    assert service.submit()["owner"] == "alice"


# Nothing here is anybody's. A key that was made up is refused also where none is needed.
KEYLESS = {
    "GET /livez": {200, 401},
    "GET /health": {200, 401},
    "GET /readyz": {200, 401, 422},
    "GET /session": {200, 401},
    "POST /session": {401, 415, 422},
    "DELETE /session": {200, 401},
}


def test_without_a_key_there_is_401_for_all_but_the_probes(guarded):
    service, _ = guarded
    with calling(service) as stranger:
        assert stranger.get("/openapi.json").status_code == 401
    outcome = explore(service, examples=6, phases=("examples", "fuzzing"))
    assert not outcome.failures, str(outcome)
    assert len(outcome.statuses) > 20
    for label, statuses in outcome.statuses.items():
        assert set(statuses) <= KEYLESS.get(label, {401}), label


@pytest.mark.soak
def test_five_thousand_cases(paused):
    seed = secrets.randbits(32)
    outcome = explore(paused, examples=260, seed=seed, without=RUNS_JOBS)
    assert not outcome.failures, f"seed {seed}: {outcome}"
    assert outcome.cases >= 5000
    assert paused.submit(experiment_id="honest")["state"] == "queued"
