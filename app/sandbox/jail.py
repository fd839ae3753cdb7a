"""The life of a jailed process after its layers are in place: load, setup, go, done; then it waits to be killed.

Messages in: ``open`` on a CUDA lane, ``prepare`` (with the code and the limits), ``load``, which runs the code for the
first time, ``setup`` (with the output memory) and ``go`` (with the input). Each is answered before the next is read, so
that the supervisor can time the phases.
Inputs come with ``go`` alone: code that looks for them earlier finds nothing.
"""

from __future__ import annotations

import faulthandler
import io
import linecache
import os
import random
import socket
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from app.sandbox import environment, faults, isolation, limits, memory, wire
from app.sandbox.contracts import CONTRACTS
from app.sandbox.contracts.base import ClipInfo, Context, Contract, Geometry


def import_contracts() -> None:
    """Import what the contracts import lazily, in the zygote, so that no jail has to."""
    for contract in CONTRACTS.values():
        contract.warm_up()


def run(confinement: isolation.Confinement) -> NoReturn:
    """Confine this freshly forked process and serve one call."""
    channel = socket.socket(fileno=isolation.JOB_FD)
    # Opened before Landlock: its rules name inodes, and the kernel may make new ones for /proc at any time.
    statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        isolation.confine(confinement)
        if not confinement.cuda:
            isolation.seal(confinement)
    except isolation.LayerFailed as error:
        wire.send(channel, {"op": "broken", "message": str(error)})
        os._exit(71)
    _own_streams()
    with _scratch_of(confinement) as fds:
        wire.send(channel, {"op": "confined"}, fds)
    session = Session(channel, confinement, statm)
    try:
        session.serve()
    except wire.Closed:
        os._exit(0)
    except MemoryError:
        # There was none to take a question or to send an answer: the log tells.
        os.write(2, b"MemoryError\n")
        os._exit(70)


@contextmanager
def _scratch_of(confinement: isolation.Confinement) -> Iterator[list[int]]:
    """A descriptor by which the supervisor sees how full a scratch is that is mounted in here alone."""
    if "scratch_tmpfs" not in confinement.layers:
        yield []
        return
    fd = os.open(confinement.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield [fd]
    finally:
        os.close(fd)


def _own_streams() -> None:
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "replace")
    for fd, name in ((1, "stdout"), (2, "stderr")):
        raw = io.FileIO(fd, "w", closefd=False)
        text = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    # A crash in native code leaves its traceback in the log.
    faulthandler.enable(2)


class Session:
    """One call: what has been loaded so far, and the answers to the supervisor's messages."""

    contract: Contract
    module: types.ModuleType
    context: Context
    geometry: Geometry
    side: str
    output_fd: int
    output_bytes: int
    _source: str
    _more_bytes: int

    def __init__(self, channel: socket.socket, confinement: isolation.Confinement, statm: int) -> None:
        self._channel = channel
        self._confinement = confinement
        self._statm = statm
        self._scratch = confinement.scratch

    def serve(self) -> NoReturn:
        phases: dict[str, Callable[[dict[str, Any], list[int]], dict[str, Any]]] = {
            "prepare": self.prepare,
            "load": self.load,
            "setup": self.setup,
            "go": self.go,
            "open": self.open,
        }
        while True:
            message, descriptors = wire.receive(self._channel, descriptors=1)
            try:
                answer = phases[message["op"]](message, descriptors)
            except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt too are the submission's
                answer = _failure(error)
            _flush()
            wire.send(self._channel, {**answer, "token": message.get("token")})

    def open(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Open the device, and only then put the last layer in place: the driver needs calls that nobody else does."""
        for fd in descriptors:
            os.close(fd)
        name, memory_bytes = open_device(message["device"], message["device_memory_share"])
        isolation.seal(self._confinement)
        return {"op": "opened", "name": name, "memory_bytes": memory_bytes}

    def prepare(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Take the submission's code, which does not run yet, apply the job's limits and seed everything."""
        self._source = memory.read(descriptors[0], os.fstat(descriptors[0]).st_size).decode()
        os.close(descriptors[0])
        self.side = message["side"]
        self.contract = CONTRACTS[message["contract"]]
        self.output_bytes = message["output_bytes"]
        environment.share_threads(message["threads"])
        seed_everything(message["seed"], message["threads"])
        self.context = Context(device=message["device"], seed=message["seed"], scratch=self._scratch)
        if "rlimits" in self._confinement.layers:
            self._limit(message)
        self._more_bytes = message["memory_bytes"] + message["mapped_bytes"]
        return {"op": "prepared"}

    def _limit(self, message: dict[str, Any]) -> None:
        limits.limit_file_size(max(message["output_bytes"], message["scratch_bytes"]))
        limits.limit_cpu_time(message["cpu_s"])
        limits.limit_open_files(message["open_files"])
        if "own_uid" in self._confinement.layers:
            limits.limit_threads(message["thread_limit"])
        if message["device"] == "cpu":
            # CUDA pins host pages.
            limits.limit_locked_memory()
        else:
            limit_device_memory(message["device"], message["device_memory_bytes"])

    def _limit_memory(self) -> None:
        """Only now: what does not fit into a limit that is too small has to be the job's failure, not ours."""
        # CUDA reserves address space far beyond any memory.
        if "rlimits" in self._confinement.layers and self.context.device == "cpu":
            limits.limit_address_space(self._statm, self._more_bytes)
        os.close(self._statm)

    def load(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Run the module's top level."""
        for fd in descriptors:
            os.close(fd)
        self._limit_memory()
        self.module = load_module(faults.SOURCES[self.side], self._source, self._scratch)
        self.contract.check(self.side, self.module)
        return {"op": "loaded"}

    def setup(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Call the submission's ``setup`` and make the output ready to be written."""
        self.geometry = Geometry.from_message(message["geometry"])
        self.context.clip = ClipInfo.of(self.geometry)
        if self.side == "encode":
            self.context.params = message["params"]
        self.contract.setup(self.module, self.context)
        self.output_fd = descriptors[0]
        if self.side == "decode":
            self._frames_out = memory.shared_map(self.output_fd, self.geometry.nbytes)
        _synchronise(self.context.device)
        return {"op": "ready"}

    def go(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Encode or decode; the answer is sent once the output is complete and the device is idle."""
        fd, size_bytes = descriptors[0], message["input_bytes"]
        memory.require_sealed(fd, size_bytes)
        answer: dict[str, Any] = {"op": "done"}
        if self.side == "encode":
            import numpy

            flat = numpy.frombuffer(memory.private_map(fd, size_bytes), numpy.uint8)
            os.close(fd)
            bitstream, told = self.contract.encode(self.module, flat, self.geometry, self.context)
            _synchronise(self.context.device)
            answer["bytes"] = self._write(bitstream)
            answer["self_reported"] = told
        else:
            given = memory.read(fd, size_bytes)
            os.close(fd)
            self.contract.decode(self.module, given, self.geometry, self.context, self._frames_out)
            _synchronise(self.context.device)
        answer["device_peak_bytes"] = _device_peak(self.context.device)
        return answer

    def _write(self, bitstream: memoryview) -> int:
        used, limit = bitstream.nbytes, self.output_bytes
        if used > limit:
            raise faults.ContractError(
                "output_limit", f"the bitstream has {used} bytes, over the limit of {limit}", limit=limit, used=used
            )
        written = 0
        while written < used:
            written += os.pwrite(self.output_fd, bitstream[written:], written)
        return used


def _failure(error: BaseException) -> dict[str, Any]:
    limits.allow_reporting()
    return {"op": "failed", **faults.describe(error)}


def _flush() -> None:
    for stream in (sys.__stdout__, sys.__stderr__, sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:  # noqa: BLE001 - the submission may have closed or replaced it
            continue


def seed_everything(seed: int, threads: int) -> None:
    """Forked children would otherwise share one state of every generator."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def load_module(filename: str, source: str, scratch: str) -> types.ModuleType:
    """Run ``source`` as a module of its own. Tracebacks name ``filename`` and show its lines; ``__file__`` exists."""
    path = os.path.join(scratch, filename)
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    module = types.ModuleType(filename.removesuffix(".py"))
    module.__file__ = path
    sys.modules[module.__name__] = module
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
    return module


def open_device(device: str, memory_share: float) -> tuple[str, int]:
    """Make this process's CUDA context before any clock runs, and bound what torch may allocate.

    The device's name, and how much memory it has.
    """
    import torch

    torch.cuda.set_device(device)
    torch.cuda.set_per_process_memory_fraction(memory_share, device)
    warm = torch.ones(16, 16, device=device)
    (warm @ warm).sum().item()
    torch.nn.functional.conv2d(warm.reshape(1, 1, 16, 16), torch.ones(1, 1, 3, 3, device=device)).sum().item()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.get_device_name(device), int(torch.cuda.get_device_properties(device).total_memory)


def limit_device_memory(device: str, allowed_bytes: int) -> None:
    """Never more than the device's share, which was set when it was opened."""
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    share = min(torch.cuda.get_per_process_memory_fraction(device), allowed_bytes / total)
    torch.cuda.set_per_process_memory_fraction(share, device)


def _synchronise(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


def _device_peak(device: str) -> int | None:
    if device == "cpu":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
