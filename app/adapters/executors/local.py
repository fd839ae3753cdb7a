"""A lane slot on this machine: an evaluator process that is kept warm, and its zygote and jails behind it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from app.adapters.executors import reaper
from app.domain import errors
from app.domain.errors import WorkerLost
from app.domain.evaluation import Report
from app.domain.job import Fault
from app.domain.lanes import Lane
from app.ports import Failed, Outcome, Progress, Ready, Succeeded, Work
from app.sandbox import environment
from app.sandbox.offer import DEFAULT_MINIMUM

CANCEL_S = 0.5
_READY_S = 180.0
_LINE_BYTES = 64 * 1024 * 1024
_BACKOFF_S = (0.0, 0.1, 0.5, 2.0)

_ROOT = Path(__file__).resolve().parents[3]
_WORK = TypeAdapter(Work)
_REPORT = TypeAdapter(Report)
_FAULT = TypeAdapter(Fault)


class _Link:
    """A running evaluator and the channel to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer

    async def send(self, message: dict[str, Any]) -> None:
        """Raises ``WorkerLost``."""
        try:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
            await self._writer.drain()
        except OSError as error:
            raise WorkerLost("the evaluator died") from error

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises ``WorkerLost`` as soon as the evaluator is dead."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError) as error:
            raise WorkerLost(f"the evaluator's channel broke: {error}") from error
        if not line.endswith(b"\n"):
            raise WorkerLost("the evaluator died")
        message: dict[str, Any] = json.loads(line)
        return message

    async def end(self) -> None:
        """Kill the evaluator with all that hangs on it; none of it runs any more when this returns."""
        await reaper.end_tree(self.process)
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class LocalExecutor:
    """Implements ``ports.Executor``. Must be used from one event loop, whose thread starts the evaluator."""

    def __init__(
        self, *, lane: Lane, slot: int, data_dir: Path, threads: int = 1, jail_minimum: str = DEFAULT_MINIMUM
    ) -> None:
        self._lane = lane
        self._slot = slot
        self._data_dir = data_dir
        self._threads = threads
        self._jail_minimum = jail_minimum
        self._link: _Link | None = None
        self._ready: Ready | None = None
        self._failures = 0

    async def warm(self) -> Ready:
        if self._link is not None and self._ready is not None and self._link.process.returncode is None:
            return self._ready
        await self.stop()
        await asyncio.sleep(_BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)])
        self._failures += 1
        try:
            link = self._link = await self._start()
            async with asyncio.timeout(_READY_S):
                message = await link.receive()
            if message["op"] != "ready":
                raise WorkerLost(f"the evaluator could not start: {message['message']}")
        except TimeoutError:
            await self.stop()
            raise WorkerLost(f"the evaluator was not ready within {_READY_S:g} s") from None
        except OSError as error:
            await self.stop()
            raise WorkerLost(f"the evaluator could not be started: {error}") from error
        except BaseException:
            await self.stop()
            raise
        self._failures = 0
        self._ready = Ready(device=message["device"], device_name=message["device_name"], jail=tuple(message["jail"]))
        return self._ready

    async def gone(self) -> None:
        if self._link is not None:
            await self._link.process.wait()

    async def run(self, work: Work, observe: Callable[[Progress], None]) -> Outcome:
        link = self._link
        if link is None:
            raise WorkerLost("the evaluator is not running")
        try:
            await link.send({"op": "run", "work": _WORK.dump_python(work, mode="json")})
            return await _outcome(link, observe)
        except asyncio.CancelledError:
            await self._cancel(link, work)
            raise
        except Exception:
            await self.stop()
            raise

    async def stop(self) -> None:
        link, self._link, self._ready = self._link, None, None
        if link is not None:
            await link.end()

    async def _start(self) -> _Link:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                settings = {
                    "lane": self._lane.name,
                    "device": self._lane.device,
                    "slots": self._lane.slots,
                    "note": self._lane.note,
                    "data_dir": str(self._data_dir),
                    "threads": self._threads,
                    "jail_minimum": self._jail_minimum,
                    "socket_fd": theirs.fileno(),
                    "parent_pid": os.getpid(),
                }
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-s", "-P", "-m", "app.adapters.executors.evaluator_main", json.dumps(settings)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    env={**environment.allowed(), "PYTHONPATH": str(_ROOT)},
                    pass_fds=[theirs.fileno()],
                )
            reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
        except BaseException:
            ours.close()
            raise
        return _Link(process, reader, writer)

    async def _cancel(self, link: _Link, work: Work) -> None:
        """Ask, and kill if there is no answer in time; whatever interrupts the waiting kills too."""
        try:
            async with asyncio.timeout(CANCEL_S):
                await link.send({"op": "cancel", "job_id": work.job_id, "attempt": work.attempt})
                while (await link.receive())["op"] == "progress":
                    pass
        except (TimeoutError, WorkerLost):
            await self.stop()
        except BaseException:
            await self.stop()
            raise


async def _outcome(link: _Link, observe: Callable[[Progress], None]) -> Outcome:
    while True:
        message = await link.receive()
        op = message.pop("op")
        if op == "progress":
            observe(Progress(**message))
        elif op == "outcome":
            return _decoded(message)
        else:
            kind = getattr(errors, str(message.get("kind")), WorkerLost)
            raise kind(message.get("message", f"the evaluator said {op!r}"))


def _decoded(message: dict[str, Any]) -> Outcome:
    report = None if message["report"] is None else _REPORT.validate_python(message["report"], strict=False)
    if message["fault"] is not None:
        return Failed(fault=_FAULT.validate_python(message["fault"]), report=report)
    assert report is not None
    return Succeeded(report=report)
