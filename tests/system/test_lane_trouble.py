"""A lane that cannot work is out of service and says why; what may run elsewhere moves; it comes back by itself."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.service import Bitlane, wait_for
from tests.system.test_whole_way import command_of, evaluators

pytestmark = pytest.mark.system

WITHIN_S = 120


def lane(service: Bitlane, name: str) -> dict[str, Any]:
    return next(one for one in service.http.get("/lanes").json()["lanes"] if one["name"] == name)


def assert_out_of_service(service: Bitlane, name: str, reason: str) -> None:
    wait_for(lambda: lane(service, name)["state"] == "failed", within_s=WITHIN_S, what=f"lane {name} to fail")
    assert reason in lane(service, name)["reason"]
    ready = service.http.get("/readyz", params={"verbose": "1"})
    check = ready.json()["checks"]["lanes"][name]
    assert ready.status_code == 200, "submissions are taken all the same"
    assert not check["ok"] and reason in check["reason"]


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="the device that should be missing is there")
def test_a_lane_whose_device_fails_its_probe(tmp_path):
    with Bitlane(tmp_path / "data", lanes="cpu=cpu,gpu=cuda:0") as service:
        only_there = service.submit(device="gpu")["id"]
        assert_out_of_service(service, "gpu", "the device cannot be used")
        anywhere = service.run(device="auto")
        assert (anywhere["state"], anywhere["lane"], anywhere["attempt"]) == ("succeeded", "cpu", 1)
        waiting = service.job(only_there)
        assert (waiting["state"], waiting["attempt"], waiting["queue_position"]) == ("queued", 0, 0)


def kill_evaluators_of(service: Bitlane, name: str) -> None:
    for pid in evaluators(service):
        if f'"lane": "{name}"' in command_of(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_lane_comes_back_by_itself(tmp_path):
    with Bitlane(tmp_path / "data", lanes="cpu=cpu,gpu=cpu") as service:

        def fails() -> bool:
            kill_evaluators_of(service, "gpu")
            return lane(service, "gpu")["state"] == "failed"

        wait_for(fails, within_s=WITHIN_S, what="lane gpu to fail")
        assert_out_of_service(service, "gpu", "the evaluator died")
        only_there = service.submit(device="gpu")["id"]
        assert service.run(device="auto")["state"] == "succeeded"
        wait_for(lambda: service.job(only_there)["state"] == "succeeded", within_s=WITHIN_S, what="it to come back")
        assert (service.job(only_there)["lane"], service.job(only_there)["attempt"]) == ("gpu", 1)
        wait_for(lambda: lane(service, "gpu")["state"] == "idle", within_s=WITHIN_S, what="the lane to say so")
