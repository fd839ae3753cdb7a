"""One call in one jail, seen from the supervisor: phases, clock, watchdogs, and the reading of how it ended.

Nothing that a jail sends is believed: each phase has one bounded answer, anything else is the submission's fault, and
the output is read only after the process and all that it started are dead.
"""

from __future__ import annotations

import math
import os
import secrets
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from app.sandbox import faults, wire
from app.sandbox.faults import MAX_MESSAGE_CHARS, MAX_TRACEBACK_CHARS
from app.sandbox.logs import LogTail
from app.sandbox.request import CallLimits, JailFault, SandboxLost
from app.sandbox.standby import Device, Standby
from app.sandbox.watch import Watch

TICK_S = 0.05
_EOF_GRACE_S = 0.5
_EXIT_S = 30.0
_PREPARED_S = 120.0  # opening a device takes seconds
_TOLD_CHARS = 1000
_PREPARE = "prepare"


class Interrupt(Protocol):
    """Something to listen to during a call: when ``fileno`` is readable, ``check`` is called and may raise."""

    def fileno(self) -> int: ...

    def check(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Exited:
    """How a child ended: ``status`` as from waitpid; ``survivors`` processes could not be killed."""

    status: int
    survivors: int


class Call:
    """The supervisor's end of one jail. ``end`` must be called whatever happened; it leaves nothing running."""

    def __init__(self, jail: Standby, limits: CallLimits, watch: Watch, interrupt: Interrupt | None) -> None:
        self.phase = _PREPARE
        self.tail = LogTail(limits.log_bytes)
        self.watch = watch
        self._jail = jail
        self._limits = limits
        self._channel = jail.channel
        self._pidfd = jail.pidfd
        self._logs = list(jail.logs)
        self._exited: Exited | None = None
        self._ended = False
        self._interrupt = interrupt
        self._zygote_fd = jail.link.channel.fileno()
        self._poller = select.poll()
        self._began = time.perf_counter()
        self._allow(_PREPARED_S)
        for fd in (self._channel.fileno(), self._pidfd, self._zygote_fd, *self._logs):
            self._poller.register(fd, select.POLLIN)
        if interrupt is not None:
            self._poller.register(interrupt.fileno(), select.POLLIN)

    def await_confined(self, device: Device | None) -> str | None:
        """Wait until the layers are in place and the device is open: its name.

        Nothing of the submission is there yet, so a failure is ours, and what is said can be believed.
        """
        try:
            reply, received = wire.receive(self._channel, descriptors=1)
        except (wire.Closed, wire.WireError):
            self._gone()
        self.watch.scratch_fd = received[0] if received else None
        if reply.get("op") != "confined":
            raise SandboxLost(f"a jail could not be made: {reply.get('message')}")
        if device is None:
            return None
        reply = self._reply()
        if reply.get("op") != "opened":
            raise SandboxLost(f"the device cannot be used: {reply.get('message')}")
        share_bytes = int(device.memory_share * reply["memory_bytes"])
        self.watch.device_bytes = min(self._limits.device_memory_bytes, share_bytes)
        return str(reply["name"])

    def prepare(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Hand over the code and the limits. Nothing of the submission runs before the next question."""
        self.ask(_PREPARE, message, descriptors, "prepared")

    def begin(self) -> None:
        """The jail is as it should be before the submission is there: its time and memory count from now."""
        self._began = time.perf_counter()
        self._allow(min(self._limits.start_s, self._limits.wall_s))
        self.watch.begin()

    def started(self) -> None:
        """Loading and setup are over: what is left of the whole time is the call's."""
        self._allow(self._limits.wall_s)

    @property
    def _preparing(self) -> bool:
        """Nothing of the submission has run yet: it can neither have failed nor have used anything."""
        return self.phase == _PREPARE

    def _allow(self, seconds: float) -> None:
        """From ``begin`` on, so many seconds."""
        self._allowed_s = seconds
        self._deadline = self._began + seconds
        self._next_tick = 0.0

    def ask(self, phase: str, message: dict[str, Any], descriptors: Sequence[int], answer: str) -> tuple[Any, float]:
        """Send one message and wait for its one answer; the answer and the seconds between.

        Raises ``JailFault``, ``SandboxLost``, or what the interrupt raises.
        """
        self.phase = phase
        if wire.readable(self._channel.fileno()):
            self._receive()
            self.violated("a message that nobody asked for")
        # The answer has to repeat it: one that was sent before the question cannot.
        token = secrets.token_hex(8)
        start = time.perf_counter()
        try:
            wire.send(self._channel, {**message, "token": token}, descriptors)
        except wire.Closed:
            self._gone()
        except wire.WireError as error:
            self._fault("contract_violation", f"the params are too large: {error}")
        reply = self._reply()
        took = time.perf_counter() - start
        if reply.get("token") != token:
            self.violated("an answer to another question")
        if reply.get("op") == "failed":
            self._reported(reply)
        if reply.get("op") != answer:
            self.violated("an answer to another question")
        return reply, took

    def violated(self, how: str) -> NoReturn:
        """The jail said what it must not."""
        self._fault("contract_violation", f"the process broke the protocol of the jail: {how}")

    def _reply(self) -> dict[str, Any]:
        while True:
            ready = self._wait(self._deadline)
            if self._channel.fileno() in ready:
                return self._receive()
            if self._pidfd in ready:
                self._gone()

    def _receive(self) -> dict[str, Any]:
        try:
            return wire.receive(self._channel)[0]
        except wire.Closed:
            self._gone()
        except wire.WireError as error:
            self.violated(str(error))

    def _wait(self, deadline: float) -> set[int]:
        """What of channel and pidfd is readable. Drains logs, watches memory and listens to the interrupt meanwhile."""
        while True:
            now = time.perf_counter()
            if now >= self._next_tick:
                self._tick()
                self._next_tick = time.perf_counter() + TICK_S
            if now >= deadline:
                self._too_long()
            pause_s = max(0.0, min(deadline, self._next_tick) - time.perf_counter())
            ready = {fd for fd, _ in self._poller.poll(math.ceil(pause_s * 1000))}
            self._drain(ready)
            if self._interrupt is not None and self._interrupt.fileno() in ready:
                self._interrupt.check()
            if ready & {self._channel.fileno(), self._pidfd}:
                return ready
            # The zygote speaks of other jails too; of this one only to say that it has ended.
            if self._zygote_fd in ready and self._jail.link.said("exited", self._jail.number):
                self._gone()

    def _drain(self, ready: set[int]) -> None:
        for fd in [fd for fd in self._logs if fd in ready]:
            if not self.tail.drain(fd):
                self._poller.unregister(fd)
                self._logs.remove(fd)
                os.close(fd)

    def look(self) -> None:
        """Measure once more. Raises ``JailFault`` for a limit that was breached since the last time."""
        self._tick()

    def _tick(self) -> None:
        if self._preparing:
            return
        breach = self.watch.look()
        if breach is not None:
            self._fault(breach.error_type, breach.message, limit=breach.limit, used=breach.used)

    def _too_long(self) -> NoReturn:
        message = f"{self.phase} was still running after the limit of {self._allowed_s:g} s"
        self._fault("wall_time_limit", message, limit=self._allowed_s, used=time.perf_counter() - self._began)

    def _reported(self, reply: dict[str, Any]) -> NoReturn:
        """The jail's own account of an exception: everything in it is checked before it is passed on."""
        kind = reply.get("error_type")
        try:
            message = wire.text(reply, "message", MAX_MESSAGE_CHARS) or "no message"
            trace = wire.text(reply, "traceback", MAX_TRACEBACK_CHARS + 100)
        except wire.WireError as error:
            self.violated(str(error))
        if not isinstance(kind, str) or kind not in faults.REPORTABLE:
            self.violated("an unknown kind of failure")
        # What is seen from here goes before what the jail makes of it: no thread, for one, may mean no memory.
        self._tick()
        limit, used = (_number(reply.get(key)) for key in ("limit", "used"))
        limit, used = self.watch.account(kind, limit, used)
        self._fault(kind, message, traceback=trace, limit=limit, used=used)

    def _gone(self) -> NoReturn:
        """The channel is closed or the process dead: say why, once it is known."""
        if not wire.readable(self._pidfd, within_s=_EOF_GRACE_S):
            self._fault("contract_violation", "the process closed its channel to the service")
        status = self.end().status
        if self._preparing:
            told = self.tail.text().strip()[-_TOLD_CHARS:]
            raise SandboxLost(f"a jail ended before it was used (wait status {status}) {told}".rstrip())
        if os.WIFSIGNALED(status):
            self._signalled(os.WTERMSIG(status))
        code = os.waitstatus_to_exitcode(status)
        if faults.looks_out_of_memory(self.tail.text()):
            self._out_of_memory(f"the process ended with exit status {code} for want of memory")
        self._fault("contract_violation", f"the process ended by itself (exit status {code}) before it had a result")

    def _signalled(self, number: int) -> NoReturn:
        name = _signal_name(number)
        log = self.tail.text()
        if number == signal.SIGXCPU:
            limit, used = self.watch.account("cpu_time_limit", None, None)
            message = f"the process used more than {limit:g} s of CPU time"
            self._fault("cpu_time_limit", message, limit=limit, used=used)
        if faults.looks_out_of_memory(log) or (number == signal.SIGKILL and self.watch.near_limit()):
            self._out_of_memory(f"the process was ended by {name} for want of memory")
        self._fault("signalled", f"the process was ended by {name}")

    def _out_of_memory(self, message: str) -> NoReturn:
        limit, used = self.watch.account("memory_limit", None, None)
        self._fault("memory_limit", message, limit=limit, used=used)

    def _fault(
        self,
        error_type: str,
        message: str,
        *,
        traceback: str | None = None,
        limit: float | None = None,
        used: float | None = None,
    ) -> NoReturn:
        self.end()
        if self._preparing:
            raise SandboxLost(f"a jail could not be prepared: {message}")
        raise JailFault(
            error_type,
            message,
            phase=self.phase,
            traceback=traceback,
            limit=limit,
            used=used,
            log_tail=faults.own_log(self.tail.text()) or None,
        )

    def freeze(self) -> None:
        """The clock has stopped: nothing is to be computed or written any more, until ``end``."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)

    def end(self) -> Exited:
        """Kill what runs, wait until it is dead, take the last of the log and close everything. Safe to call again."""
        if not self._ended:
            self._ended = True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            try:
                message, _ = self._jail.link.answer("exited", self._jail.number, _EXIT_S)
                self._exited = Exited(status=message["status"], survivors=message["survivors"])
            finally:
                for fd in self._logs:
                    self.tail.drain_all(fd)
                self._close()
        if self._exited is None or self._exited.survivors:
            raise SandboxLost("the processes of a jail could not be ended")
        return self._exited

    def _close(self) -> None:
        for fd in self._logs:
            os.close(fd)
        self._logs.clear()
        self._channel.close()
        os.close(self._pidfd)
        self.watch.close()
        self._jail.remove_directory()


def _signal_name(number: int) -> str:
    """``SIGKILL``; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _number(value: Any) -> float | None:
    if type(value) in (int, float) and 0 <= value < 2**63:
        return float(value)
    return None
