"""The evaluator's side of the sandbox: it keeps a zygote, has it fork one jail a call, and drives the call.

Synchronous, one call at a time, from one thread: the zygote dies with the thread that started it.
"""

from __future__ import annotations

import mmap
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.sandbox import environment, memory, processes, wire
from app.sandbox.call import Call, Exited, Interrupt, JailFault, Request, SandboxLost
from app.sandbox.contracts.base import Geometry
from app.sandbox.watch import Watch

_READY_S = 120.0
_FORK_S = 30.0
_EXIT_S = 30.0
_PROBE_S = 120.0
_MAX_TOLD = 64

_ROOT = Path(__file__).resolve().parents[2]
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from app.sandbox import zygote; sys.path.pop(0); "
    "zygote.main(int(sys.argv[2]), int(sys.argv[3]), namespaces=sys.argv[4] == 'namespaces')"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A call's result. ``output`` is the bitstream (bytes), or the decoded frames (a read-only map, flat).

    ``call_s`` runs from "go" to "done". ``peak_memory_bytes`` is above what the jail started with.
    """

    output: bytes | mmap.mmap
    load_s: float
    setup_s: float
    call_s: float
    peak_memory_bytes: int
    peak_device_memory_bytes: int | None
    self_reported: dict[str, Any] | None
    log_tail: str


class Supervisor:
    """One zygote and the calls in its jails.

    ``layers`` and ``versions`` are what the zygote said when it got ready. ``namespaces`` False leaves them out, as on
    machines that refuse them.
    """

    def __init__(self, *, namespaces: bool = True, scratch_root: str | None = None) -> None:
        self.layers: tuple[str, ...] = ()
        self.versions: dict[str, str] = {}
        self._namespaces = namespaces
        self._scratch_root = scratch_root
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._number = 0

    @property
    def pid(self) -> int | None:
        """The zygote's process, as this process started it."""
        return None if self._process is None else self._process.pid

    def warm(self) -> None:
        """Return once a zygote is ready, starting one if there is none. Raises ``SandboxLost``."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        if not self.layers:
            message, _ = self._from_zygote("ready", _READY_S)
            self.layers = tuple(message["layers"])
            self.versions = message["versions"]

    def start(self) -> None:
        """Start a fresh zygote without waiting until it is ready."""
        self.close()
        ours, theirs = wire.pair()
        self._channel = ours
        mode = "namespaces" if self._namespaces else "plain"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-c", _BOOT, str(_ROOT), str(theirs.fileno()), str(os.getpid()), mode],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=environment.for_zygote(),
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        """End the zygote and with it every jail. Safe to call twice."""
        self.layers = ()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def call(self, request: Request, interrupt: Interrupt | None = None) -> Finished:
        """Run one encode or decode. Raises ``JailFault``, ``SandboxLost``, or what the interrupt raises.

        When it returns or raises, no process of the call is left, nor any file of it.
        """
        with self._directory() as directory:
            return self._call(request, interrupt, directory)

    def _call(self, request: Request, interrupt: Interrupt | None, directory: str | None) -> Finished:
        decoding = request.side == "decode"
        size_bytes = request.geometry.nbytes if decoding else request.output_bytes
        output_fd = memory.output(size_bytes, "output", populate=decoding)
        try:
            call = self._forked(request, interrupt, directory)
            try:
                done, load_s, setup_s, call_s = _drive(call, request, output_fd)
                peak_bytes = call.watch.used_bytes()
            finally:
                call.end()
            try:
                told = _told(done)
                used = size_bytes if decoding else wire.size(done, "bytes", request.output_bytes)
                device_peak = None if request.device == "cpu" else wire.size(done, "device_peak_bytes", 2**50)
            except wire.WireError as error:
                call.violated(str(error))
            return Finished(
                output=_mapped(output_fd, used) if decoding else memory.read(output_fd, used),
                load_s=load_s,
                setup_s=setup_s,
                call_s=call_s,
                peak_memory_bytes=peak_bytes,
                peak_device_memory_bytes=device_peak,
                self_reported=told,
                log_tail=call.tail.text(),
            )
        finally:
            os.close(output_fd)

    def probe(self, device: str) -> str:
        """The device's name, as a jail that opens it sees it. Raises ``SandboxLost`` if it cannot be used."""
        request = Request(
            side="encode",
            contract="native",
            code="",
            geometry=Geometry(layout="rgb", frames=1, height=1, width=1, fps=(1, 1)),
            input_fd=-1,
            input_bytes=0,
            wall_s=_PROBE_S,
            memory_bytes=2**40,
            output_bytes=0,
            scratch_bytes=2**30,
            log_bytes=4096,
            device=device,
        )
        with self._directory() as directory:
            call = self._fork(request, None, directory)
            try:
                call.await_confined()
                return _open_device(call, request)
            finally:
                call.end()

    @contextmanager
    def _directory(self) -> Iterator[str | None]:
        """Where a jail writes that cannot mount a place of its own; gone after the block. The zygote is warm in it."""
        self.warm()
        directory = (
            None if "mount_namespace" in self.layers else tempfile.mkdtemp("", "bitlane-jail-", self._scratch_root)
        )
        try:
            yield directory
        except SandboxLost:
            self.close()
            raise
        finally:
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)

    def _forked(self, request: Request, interrupt: Interrupt | None, directory: str | None) -> Call:
        """A jail; if the zygote has died since the last call, one of a new zygote: nothing of this call has run yet."""
        try:
            return self._fork(request, interrupt, directory)
        except SandboxLost:
            self.start()
            self.warm()
            return self._fork(request, interrupt, directory)

    def _fork(self, request: Request, interrupt: Interrupt | None, directory: str | None) -> Call:
        assert self._channel is not None
        self._number += 1
        ours, theirs = wire.pair()
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(out_read, False)
        os.set_blocking(err_read, False)
        message = {
            "op": "fork",
            "number": self._number,
            "directory": directory or "/",
            "scratch_bytes": request.scratch_bytes,
        }
        try:
            try:
                wire.send(self._channel, message, [theirs.fileno(), out_write, err_write])
            except wire.Closed:
                raise SandboxLost("the zygote is gone") from None
            finally:
                theirs.close()
                os.close(out_write)
                os.close(err_write)
            _, (pidfd,) = self._from_zygote("forked", _FORK_S, descriptors=1)
        except BaseException:
            ours.close()
            os.close(out_read)
            os.close(err_read)
            raise
        return Call(
            channel=ours,
            pidfd=pidfd,
            logs=[out_read, err_read],
            zygote=self._channel,
            await_exit=self._await_exit,
            watch=self._watch(request, pidfd, directory),
            interrupt=interrupt,
            wall_s=request.wall_s,
            log_bytes=request.log_bytes,
        )

    def _watch(self, request: Request, pidfd: int, directory: str | None) -> Watch:
        pid = processes.pid_of(pidfd) or 0
        return Watch(
            pid=pid,
            tree=lambda: processes.tree_of(pid) if "pid_namespace" in self.layers else self._descendants(),
            memory_bytes=request.memory_bytes,
            mapped_bytes=_mapped_bytes(request),
            scratch_bytes=request.scratch_bytes,
            directory=directory,
        )

    def _descendants(self) -> Iterable[int]:
        """Without a PID namespace, what a jail detaches becomes the zygote's child."""
        assert self._process is not None
        found = iter(processes.tree_of(self._process.pid))
        next(found)
        return found

    def _await_exit(self) -> Exited:
        message, _ = self._from_zygote("exited", _EXIT_S)
        return Exited(status=message["status"], survivors=message["survivors"])

    def _from_zygote(self, op: str, patience_s: float, descriptors: int = 0) -> tuple[dict[str, Any], list[int]]:
        """The zygote's next message, which has to be this one. Raises ``SandboxLost``."""
        assert self._channel is not None
        deadline = time.monotonic() + patience_s
        try:
            if not select.select([self._channel], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise SandboxLost(f"the zygote did not say {op!r} within {patience_s:g} s")
            message, received = wire.receive(self._channel, descriptors)
        except (wire.Closed, wire.WireError, OSError) as error:
            raise SandboxLost(f"the zygote is gone: it did not say {op!r}") from error
        if message.get("op") != op or message.get("number", self._number) != self._number:
            for fd in received:
                os.close(fd)
            raise SandboxLost(f"the zygote said {message.get('message') or message.get('op')!r} instead of {op!r}")
        return message, received


def _drive(call: Call, request: Request, output_fd: int) -> tuple[dict[str, Any], float, float, float]:
    """Load, setup, go, done: the last answer, and the seconds of each phase."""
    call.await_confined()
    if request.device != "cpu":
        _open_device(call, request)
    call.begin()
    with memory.holding(request.code.encode(), "code") as code_fd:
        _, load_s = call.ask("load", _load_message(request), [code_fd], "loaded")
    setup = {"op": "setup", "geometry": request.geometry.to_message(), "params": request.params}
    _, setup_s = call.ask("setup", setup, [output_fd], "ready")
    done, call_s = call.ask(request.side, {"op": "go", "input_bytes": request.input_bytes}, [request.input_fd], "done")
    return done, load_s, setup_s, call_s


def _open_device(call: Call, request: Request) -> str:
    """Have the jail open its device; the device's name. Nothing of the submission is there yet: a failure is ours."""
    message = {"op": "open", "device": request.device, "device_memory_share": request.device_memory_share}
    with memory.holding(b"", "nothing") as nothing:
        try:
            answer, _ = call.ask("open", message, [nothing], "opened")
        except JailFault as fault:
            raise SandboxLost(f"the device {request.device} cannot be used: {fault.message}") from fault
    return str(answer["name"])


def _load_message(request: Request) -> dict[str, Any]:
    fields = (
        "side",
        "contract",
        "seed",
        "device",
        "threads",
        "memory_bytes",
        "output_bytes",
        "scratch_bytes",
        "wall_s",
    )
    message = {name: getattr(request, name) for name in fields}
    return {"op": "load", "mapped_bytes": _mapped_bytes(request), **message}


def _mapped_bytes(request: Request) -> int:
    """What is mapped into the jail by the service: the frames, and a decoder's bitstream."""
    return request.geometry.nbytes + (request.input_bytes if request.side == "decode" else 0)


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
