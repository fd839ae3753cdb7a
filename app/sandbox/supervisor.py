"""The evaluator's side of the sandbox: it keeps a zygote and a few standby jails, and drives one call at a time.

Synchronous, from one thread: the zygote dies with the thread that started it.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from app.sandbox import memory, nvml, processes, scratch, standby, wire
from app.sandbox.call import Call, Interrupt
from app.sandbox.offer import missing
from app.sandbox.request import BelowMinimum, CallLimits, Finished, Request, SandboxLost
from app.sandbox.standby import Device, Standby
from app.sandbox.watch import Watch
from app.sandbox.zygote_link import ZygoteLink

DEFAULT_SCRATCH_BYTES = 1024**3
_STANDBYS = 2
_CALLS_A_ZYGOTE = 500
_PROBE_S = 120.0
_MAX_TOLD = 64


class Supervisor:
    """One zygote at a time and the calls in its jails.

    ``without`` names layers to leave off, for machines that refuse them and for tests. ``minimum`` is what the layers
    in force must fulfil, else nothing runs (``offer.missing``). ``device`` None is the CPU.
    """

    def __init__(
        self,
        *,
        without: Collection[str] = (),
        minimum: str = "none",
        device: Device | None = None,
        scratch_root: str | None = None,
    ) -> None:
        self._without = frozenset(without)
        self._minimum = minimum
        self._device = device
        self._device_memory = None if device is None else nvml.load()
        self._scratch_root = scratch_root
        self._link: ZygoteLink | None = None
        self._standbys: deque[Standby] = deque()
        self._scratch_bytes = DEFAULT_SCRATCH_BYTES
        self._number = 0
        self._calls = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """Those in force, once the zygote is warm."""
        return () if self._link is None else self._link.layers

    @property
    def versions(self) -> dict[str, str]:
        return {} if self._link is None else self._link.versions

    @property
    def pid(self) -> int | None:
        """The zygote's process, as this process started it."""
        return None if self._link is None else self._link.pid

    def start(self) -> None:
        """Start a fresh zygote without waiting until it is ready. Raises ``SandboxLost``."""
        self.close()
        try:
            self._link = ZygoteLink(without=self._without, cuda=self._device is not None)
        except OSError as error:
            raise SandboxLost(f"a zygote could not be started: {error}") from error

    def warm(self) -> None:
        """Return once a zygote is ready, starting one if there is none. Raises ``SandboxLost``."""
        self._warm()
        self._refill()

    def _warm(self) -> ZygoteLink:
        if self._link is None or not self._link.alive:
            self.start()
        assert self._link is not None
        if self._link.await_ready():
            # Also where this zygote's jails mount theirs: an earlier service may have had to do without.
            scratch.sweep(self._scratch_root)
        lacking = missing(self._minimum, self._link.layers)
        if lacking:
            self.close()
            raise BelowMinimum(f"the jail is below the declared minimum: {', '.join(lacking)} cannot be had here")
        return self._link

    def rest(self) -> None:
        """Between two jobs: have standbys ready, and replace a zygote that has served long enough."""
        if self._calls >= _CALLS_A_ZYGOTE:
            self.start()
        self.warm()

    def settle(self) -> None:
        """Wait until no jail is being made: that would take time from a call that is timed.

        One that could not be made is given up: it is no matter of the call that waits here.
        """
        for made in list(self._standbys):
            try:
                made.await_confined()
            except SandboxLost:
                self._standbys.remove(made)
                made.discard()

    def close(self) -> None:
        """End the zygote and with it every jail. Safe to call twice."""
        self._drop_standbys()
        link, self._link = self._link, None
        self._calls = 0
        if link is not None:
            link.close()

    def probe(self) -> str | None:
        """The device's name, as a jail that opens it sees it. Raises ``SandboxLost`` if it cannot be used."""
        call = self._begin(_PROBE_LIMITS, mapped_bytes=0, interrupt=None)
        try:
            return call.await_confined(self._device)
        finally:
            call.end()

    def call(self, request: Request, interrupt: Interrupt | None = None) -> Finished:
        """Run one encode or decode. Raises ``JailFault``, ``SandboxLost``, or what the interrupt raises.

        When it returns or raises, no process of the call is left, nor any file of it.
        """
        decoding = request.side == "decode"
        output_fd = memory.output(request.room_bytes, "output", populate=decoding)
        try:
            return self._call(request, interrupt, output_fd)
        except SandboxLost:
            self.close()
            raise
        finally:
            os.close(output_fd)

    def _call(self, request: Request, interrupt: Interrupt | None, output_fd: int) -> Finished:
        self._calls += 1
        call = self._begin(request.limits, mapped_bytes=request.mapped_bytes, interrupt=interrupt)
        try:
            done, load_s, setup_s, call_s = self._drive(call, request, output_fd)
            call.freeze()
            call.look()
            peak_bytes = call.watch.used_bytes()
        finally:
            call.end()
            # Nobody is timed now; forking the next ones takes a core for a moment.
            self._refill()
        try:
            told = _told(done)
            used = request.room_bytes
            if request.side == "encode":
                used = wire.size(done, "bytes", request.room_bytes)
            device_peak = None if self._device is None else wire.size(done, "device_peak_bytes", 2**50)
        except wire.WireError as error:
            call.violated(str(error))
        return Finished(
            output=_mapped(output_fd, used) if request.side == "decode" else memory.read(output_fd, used),
            load_s=load_s,
            setup_s=setup_s,
            call_s=call_s,
            peak_memory_bytes=peak_bytes,
            peak_device_memory_bytes=device_peak,
            self_reported=told,
            log_tail=call.tail.text(),
        )

    def _drive(
        self, call: Call, request: Request, output_fd: int
    ) -> tuple[dict[str, Any], float, float, float]:
        """Load, setup, go, done: the last answer, and the seconds of each phase."""
        call.await_confined(self._device)
        with memory.holding(request.code.encode(), "code") as code_fd:
            call.prepare(self._preparation(request, call.watch.threads()), [code_fd])
        self.settle()
        call.begin()
        _, load_s = call.ask("load", {"op": "load"}, [], "loaded")
        setup = {"op": "setup", "geometry": request.geometry.to_message(), "params": request.params}
        _, setup_s = call.ask("setup", setup, [output_fd], "ready")
        call.started()
        go = {"op": "go", "input_bytes": request.input_bytes}
        with memory.reopened(request.input_fd) as input_fd:
            done, call_s = call.ask(request.side, go, [input_fd], "done")
        return done, load_s, setup_s, call_s

    def _preparation(self, request: Request, threads: int) -> dict[str, Any]:
        """``threads`` are those that the jail has already, a device's driver's."""
        limits = request.limits
        return {
            "op": "prepare",
            "side": request.side,
            "contract": request.contract,
            "seed": request.seed,
            "device": "cpu" if self._device is None else self._device.name,
            "threads": request.threads,
            "mapped_bytes": request.mapped_bytes,
            **{name: getattr(limits, name) for name in _LIMITS_IN_JAIL},
            "thread_limit": limits.threads + threads,
        }

    def _begin(self, limits: CallLimits, *, mapped_bytes: int, interrupt: Interrupt | None) -> Call:
        """A call in a standby jail, or if the zygote has died since the last call in one of a new zygote."""
        try:
            jail = self._take(limits.scratch_bytes)
        except BelowMinimum:
            raise
        except SandboxLost:
            self.start()
            jail = self._take(limits.scratch_bytes)
        pid = jail.pid
        alone = "pid_namespace" in self.layers or "seccomp" in self.layers
        watch = Watch(
            pid=pid,
            tree=lambda: processes.tree_of(pid) if alone else self._descendants(),
            limits=limits,
            mapped_bytes=mapped_bytes,
            directory=jail.directory,
            device=None if self._device_memory is None else self._device_memory.used_by,
        )
        return Call(jail, limits, watch, interrupt)

    def _take(self, scratch_bytes: int) -> Standby:
        """A jail that is locked down. The size of a mounted scratch is fixed: others are of no use to this call."""
        link = self._warm()
        if scratch_bytes != self._scratch_bytes:
            self._drop_standbys()
            self._scratch_bytes = scratch_bytes
        while self._standbys:
            # It stays where it is found and ended until it is known that there is a zygote.
            usable = self._standbys[0].usable
            jail = self._standbys.popleft()
            if usable:
                break
            jail.discard()
        else:
            jail = self._order(link)
        try:
            jail.await_confined()
        except BaseException:
            jail.discard()
            raise
        return jail

    def _order(self, link: ZygoteLink) -> Standby:
        self._number += 1
        return standby.order(
            link,
            self._number,
            scratch_bytes=self._scratch_bytes,
            scratch_root=self._scratch_root,
            device=self._device,
        )

    def _refill(self) -> None:
        """Order standbys once there are none: after an encode the second one stays for its decode.

        A zygote that has died meanwhile is found out when the next jail is taken.
        """
        if self._link is None or self._standbys:
            return
        with suppress(SandboxLost):
            for _ in range(_STANDBYS if self._device is None else 1):
                self._standbys.append(self._order(self._link))

    def _drop_standbys(self) -> None:
        while self._standbys:
            self._standbys.popleft().discard()

    def _descendants(self) -> Iterable[int]:
        """Where a jail can fork and has no PID namespace, what it detaches becomes the zygote's child."""
        assert self._link is not None
        found = iter(processes.tree_of(self._link.pid))
        next(found)
        waiting = {made.pid for made in self._standbys}
        return (pid for pid in found if pid not in waiting)


_LIMITS_IN_JAIL = ("memory_bytes", "output_bytes", "scratch_bytes", "cpu_s", "open_files", "device_memory_bytes")
_PROBE_LIMITS = CallLimits(
    wall_s=_PROBE_S,
    start_s=_PROBE_S,
    cpu_s=_PROBE_S,
    memory_bytes=2**40,
    scratch_bytes=DEFAULT_SCRATCH_BYTES,
    output_bytes=0,
    log_bytes=4096,
    device_memory_bytes=2**40,
    threads=64,
    open_files=512,
)


def _mapped(fd: int, size_bytes: int) -> mmap.mmap:
    return mmap.mmap(fd, size_bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


def _told(done: dict[str, Any]) -> dict[str, Any] | None:
    """What an encoder said about itself: a flat map of numbers, or nothing. Raises ``WireError``."""
    told = done.get("self_reported")
    if told is None:
        return None
    if not isinstance(told, dict) or len(told) > _MAX_TOLD:
        raise wire.WireError("self_reported is not a map of numbers")
    return {wire.clean(key)[:64]: value for key, value in told.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return type(value) in (bool, int, float) and abs(value) < 2**53
