"""What the service says of its jail, and that it runs nothing where the jail is weaker than the operator demands."""

from __future__ import annotations

import pytest

from tests.service import Bitlane, spec

# Root needs no user namespace, and nobody else can change the uid: no machine offers both.
IMPOSSIBLE = "seccomp,user_namespace,own_uid"


class Refusing(Bitlane):
    """Up, and never ready."""

    def _ready(self) -> bool:
        return self.answers("/livez")


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    data = tmp_path_factory.mktemp("weak") / "data"
    with Refusing(data, env={"BITLANE_JAIL_MINIMUM": IMPOSSIBLE}) as service:
        yield service


def test_the_layers_are_stated_everywhere(service):
    job = service.run(device="cpu")
    stated = service.http.get("/readyz?verbose").json()["checks"]["jail"]
    assert stated["ok"] and stated["reason"] is None
    assert stated["minimum"] == "seccomp,landlock/mount_namespace"
    assert {"seccomp", "no_new_privs", "rlimits"} <= set(stated["layers"])
    lane = service.http.get("/lanes").json()["lanes"][0]
    assert lane["jail"] == stated["layers"] == job["report"]["provenance"]["jail"]


def test_a_submission_is_refused_and_says_what_is_missing(weak):
    answer = weak.http.post("/jobs", json=spec())
    assert answer.status_code == 503, answer.text
    problem = answer.json()
    assert problem["error_type"] == "jail_too_weak" and problem["retryable"] is False
    assert "no user_namespace" in problem["detail"] or "no own_uid" in problem["detail"]
    legacy = {"experiment_id": "one", "encoding_agent_code": "x = 1", "decoding_agent_code": "x = 1"}
    assert weak.http.post("/experiment", json=legacy).status_code == 503
    assert weak.http.get("/jobs").json()["jobs"] == []


def test_the_probes_say_why(weak):
    ready = weak.http.get("/readyz?verbose")
    assert ready.status_code == 503
    assert ready.json()["checks"]["jail"]["ok"] is False
    assert "below the declared minimum" in ready.json()["reason"]
    assert weak.http.get("/health").status_code == 503
    assert weak.http.get("/status").json()["is_processing"] is True


def test_a_minimum_with_an_unknown_layer_does_not_start(tmp_path):
    service = Bitlane(tmp_path / "data", env={"BITLANE_JAIL_MINIMUM": "sealing-wax"})
    with pytest.raises(AssertionError, match="there is no layer 'sealing-wax'"):
        service.start()


def test_a_decoder_that_could_hold_the_clip_is_flagged(service):
    """Nothing can prevent it: it is said."""
    padding = "# " + "x" * 40_000 + "\n"
    job = service.run(device="cpu", decoder=spec()["decoder"] + padding)
    assert job["report"]["flags"] == ["large_decoder_package"]
    assert job["report"]["provenance"]["decoder_package_bytes"] > 40_000
    assert service.run(device="cpu")["report"]["flags"] == []
