"""The evaluator process of one lane slot: it keeps the zygote, drives the jails and measures.

Started by ``LocalExecutor`` with its settings as one JSON argument. Messages in: ``run``, ``cancel``. Messages out:
``ready``, ``progress``, and one of ``outcome``, ``cancelled``, ``error`` for each ``run``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from app.adapters.executors import machine
from app.adapters.executors.control import Cancelled, Control
from app.adapters.executors.jailed import JailedCodec
from app.domain.errors import ClipUnusable, PlatformError
from app.domain.evaluation import Json, Report
from app.domain.job import Fault
from app.evaluator.clips.catalogue import SuiteCatalogue
from app.evaluator.clips.source import ClipSource
from app.evaluator.measure import warm_up
from app.evaluator.pipeline import evaluate
from app.ports import Outcome, Progress, Succeeded, Work
from app.sandbox import syscalls
from app.sandbox.request import SandboxLost
from app.sandbox.standby import Device
from app.sandbox.supervisor import Supervisor

_WORK = TypeAdapter(Work)
_REPORT = TypeAdapter(Report)
_FAULT = TypeAdapter(Fault)

# Of a CUDA device's memory, what all slots of a lane together may allocate; contexts and libraries need the rest.
_DEVICE_MEMORY_SHARE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the executor says at start. ``note`` is what a reader of the lane's name has to know."""

    lane: str
    device: str
    slots: int
    data_dir: str
    threads: int
    jail_minimum: str
    socket_fd: int
    parent_pid: int
    note: str | None = None


class Evaluator:
    def __init__(self, settings: Settings, control: Control) -> None:
        self._settings = settings
        self._control = control
        device = None
        if settings.device != "cpu":
            device = Device(name=settings.device, memory_share=_DEVICE_MEMORY_SHARE / settings.slots)
        self._supervisor = Supervisor(minimum=settings.jail_minimum, device=device)
        # The zygote imports torch while this process imports and compiles what it measures with.
        self._supervisor.start()
        data_dir = Path(settings.data_dir)
        self._catalogue = SuiteCatalogue(data_dir)
        self._source = ClipSource(data_dir)
        self._device_name = machine.processor_name()

    def warm(self) -> None:
        """Everything that the first attempt would otherwise wait for. Raises ``SandboxLost``."""
        warm_up()
        self._device_name = self._supervisor.probe() or self._device_name
        self._supervisor.rest()

    def ready(self) -> dict[str, Any]:
        return {
            "op": "ready",
            "device": self._settings.device,
            "device_name": self._device_name,
            "jail": list(self._supervisor.layers),
        }

    def serve(self) -> None:
        """Run what is asked for, one attempt at a time, for ever."""
        self._control.send(self.ready())
        while True:
            message = self._control.receive()
            if message["op"] == "run":
                self._control.send(self._answer(_WORK.validate_python(message["work"], strict=False)))
                # What cannot be had now is tried again by the next attempt, whose failure is then told.
                with suppress(SandboxLost, OSError):
                    self._supervisor.rest()

    def _answer(self, work: Work) -> dict[str, Any]:
        self._control.begin(work.job_id, work.attempt)
        try:
            outcome = self._run(work)
        except Cancelled:
            return {"op": "cancelled"}
        except PlatformError as error:
            return {"op": "error", "kind": type(error).__name__, "message": str(error)}
        except Exception as error:  # noqa: BLE001 - a bug that one job brings out must not end the evaluator
            return {"op": "error", "kind": "WorkerLost", "message": f"{type(error).__name__}: {error}"}
        finally:
            self._control.end()
        return _told(outcome)

    def _run(self, work: Work) -> Outcome:
        spec = work.spec
        codec = JailedCodec(
            self._supervisor,
            encoder=work.encoder,
            decoder=work.decoder,
            contract=spec.contract,
            frame_format=spec.frame_format,
            limits=spec.limits,
            seed=spec.seed,
            threads=self._settings.threads,
            interrupt=self._control,
        )
        suite = next((suite for suite in self._catalogue.suites() if suite.name == spec.suite), None)
        if suite is None:
            raise ClipUnusable(f"the suite {spec.suite!r} is not there any more")
        package: dict[str, Json] = {"decoder_package_bytes": len(work.decoder.encode())}
        return evaluate(spec, suite, codec, self._source, self._observe, {**self._provenance(), **package})

    def _observe(self, progress: Progress) -> None:
        self._control.check()
        self._control.send({"op": "progress", **asdict(progress)})

    def _provenance(self) -> dict[str, Json]:
        device: dict[str, Json] = {
            "lane": self._settings.lane,
            "device": self._settings.device,
            "name": self._device_name,
            "threads": self._settings.threads,
        }
        if self._settings.note is not None:
            device["note"] = self._settings.note
        return {
            "device": device,
            "jail": list(self._supervisor.layers),
            "versions": dict(self._supervisor.versions),
        }


def _told(outcome: Outcome) -> dict[str, Any]:
    report = None if outcome.report is None else _REPORT.dump_python(outcome.report, mode="json")
    fault = None if isinstance(outcome, Succeeded) else _FAULT.dump_python(outcome.fault, mode="json")
    return {"op": "outcome", "report": report, "fault": fault}


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    syscalls.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != settings.parent_pid:
        os._exit(1)
    # Where jails run as the same user, nothing of theirs may look in here.
    syscalls.set_undumpable()
    # Control-C in a terminal reaches every process: how to stop is the API process's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = Control(socket.socket(fileno=settings.socket_fd))
    try:
        evaluator = Evaluator(settings, control)
        evaluator.warm()
    except SandboxLost as error:
        control.send({"op": "error", "kind": "WorkerLost", "message": str(error)})
        os._exit(1)
    evaluator.serve()


if __name__ == "__main__":
    main()
