"""The warm process from which every jail is forked.

It is exec'ed by an evaluator, never forked from it, has one socket, no thread and no loop of anybody else's, and ends
with its parent. It never touches CUDA: a child could not use a device that its parent had opened. Where the machine
allows, it is the first process of a PID namespace, so that nothing that a jail leaves behind can outlive it, and lives
in a minimal root, so that no jail ever sees the machine's files.

Messages in: ``fork`` (with the job socket and two log pipes). Messages out: ``ready``, ``forked`` (with a pidfd),
``failed`` and ``exited`` (with the wait status).
"""

from __future__ import annotations

import gc
import mmap
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Any

from app.sandbox import imports, isolation, jail, nest, offer, processes, root, seccomp, syscalls, wire

_SWEEPS = 200


@dataclass(frozen=True, slots=True)
class Child:
    number: int
    pid: int
    pidfd: int
    nest: nest.Nest | None


def main(socket_fd: int, parent_pid: int, *, without: tuple[str, ...] = (), cuda: bool = False) -> None:
    syscalls.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)
    # Control-C in a terminal reaches the whole foreground group; how to stop is for the service to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own_number = os.getpid()
    layers = frozenset(offer.layers(without, cuda=cuda))
    namespaces = [name for name in isolation.NAMESPACES if name in layers]
    if namespaces:
        isolation.enter(namespaces)
    if "pid_namespace" in layers:
        _become_first_process(socket_fd)
    if "descendants_killed" in layers:
        syscalls.set_child_subreaper()
    channel = socket.socket(fileno=socket_fd)
    versions = _warm_up()
    zygote = Zygote(channel, layers, cuda=cuda, own_number=own_number)
    if "undumpable" not in without:
        # No jail looks in here, also where jails themselves have to be looked into.
        syscalls.set_undumpable()
    gc.collect()
    gc.freeze()
    tasks = len(os.listdir("/proc/self/task"))
    if tasks != 1:
        raise RuntimeError(f"the zygote has {tasks} threads: its children could not be trusted to run")
    told = [name for name in offer.LAYERS if name in layers]
    with suppress(wire.Closed):
        wire.send(channel, {"op": "ready", "layers": told, "versions": versions})
        zygote.serve()


def _become_first_process(socket_fd: int) -> None:
    """Only a child enters the new PID namespace: this process stays outside and ends as its child ends."""
    myself = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid == 0:
        syscalls.set_parent_death_signal(signal.SIGKILL)
        if select.select([myself], [], [], 0)[0]:
            os._exit(1)
        os.close(myself)
        return
    os.close(socket_fd)
    _, status = os.waitpid(pid, 0)
    os._exit(0 if status == 0 else 1)


def _warm_up() -> dict[str, str]:
    """Import what submissions use and run a little of it, on one thread; the versions of what was imported."""
    import av
    import msgpack
    import numpy
    import PIL
    import PIL.Image
    import torch

    jail.seed_everything(0, threads=1)
    image = torch.rand(1, 3, 16, 16)
    torch.nn.functional.conv2d(image, torch.rand(4, 3, 3, 3))
    (image.reshape(16, 48) @ torch.rand(48, 16)).round().to(torch.uint8).numpy().tobytes()
    torch.fft.rfft2(image)
    jail.import_contracts()
    _hide_ourselves()
    modules = {"torch": torch, "numpy": numpy, "av": av, "pillow": PIL}
    versions = {name: str(module.__version__) for name, module in modules.items()}
    return {"python": sys.version.split()[0], "msgpack": ".".join(map(str, msgpack.version)), **versions}


def _hide_ourselves() -> None:
    """Everything of ours that a jail needs is imported; a submission does not find the rest through ``app``."""
    for package in ("app", "app.sandbox", "app.sandbox.contracts"):
        sys.modules[package].__path__ = []
    sys.meta_path[:] = [imports.OnlyShown if one is PathFinder else one for one in sys.meta_path]
    mmap.mmap = imports.PrivateMap  # type: ignore[misc]


def _pidfd_of(pid: int) -> int:
    """Of a child just forked, which ends if there can be none. Raises ``OSError``."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


class Zygote:
    """Forks a child per request and reports how each ended. Making it is entering the minimal root."""

    def __init__(self, channel: socket.socket, layers: frozenset[str], *, cuda: bool, own_number: int) -> None:
        self._channel = channel
        self._layers = layers
        self._cuda = cuda
        self._own_number = own_number
        self._children: dict[int, Child] = {}
        self._view = root.view(cuda=cuda)
        root.bring_in(self._view)
        self._filter = seccomp.Filter(cuda=cuda) if "seccomp" in layers else None
        if "minimal_root" in layers:
            root.enter(self._view)
        self._rules = isolation.rules(self._view, layers) if "landlock" in layers else None
        # One serves all where the scratch is always in the same place.
        self._ruleset = self._rules.ruleset() if self._rules is not None and "minimal_root" in layers else None
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC) if "pid_namespace" in layers else None
        self._nest = self._make_nest()

    def serve(self) -> None:
        """Answer until the evaluator is gone."""
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        while True:
            for fd, _ in poller.poll():
                if fd == self._channel.fileno():
                    message, descriptors = wire.receive(self._channel, descriptors=3)
                    child = self._fork(message, descriptors)
                    if child is not None:
                        poller.register(child.pidfd, select.POLLIN)
                else:
                    poller.unregister(fd)
                    self._bury(self._children.pop(fd))
                    # Where there cannot be one now, the next fork tries again and says what went wrong.
                    with suppress(OSError):
                        self._nest = self._nest or self._make_nest()

    def _make_nest(self) -> nest.Nest | None:
        return None if self._own_pids is None else nest.make(self._own_pids)

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> Child | None:
        number = message["number"]
        home, self._nest = self._nest, None
        try:
            home = home or self._make_nest()
            pid = self._fork_process(message, descriptors, home)
            pidfd = _pidfd_of(pid)
        except OSError as error:
            if home is not None:
                home.end()
            wire.send(self._channel, {"op": "failed", "number": number, "message": f"fork: {error}"})
            return None
        finally:
            for fd in descriptors:
                os.close(fd)
        child = Child(number, pid, pidfd, home)
        self._children[child.pidfd] = child
        wire.send(self._channel, {"op": "forked", "number": number, "pid": pid}, [child.pidfd])
        return child

    def _fork_process(self, message: dict[str, Any], descriptors: list[int], home: nest.Nest | None) -> int:
        if self._own_pids is None or home is None:
            return self._fork_child(message, descriptors)
        home.enter()
        try:
            return self._fork_child(message, descriptors)
        finally:
            syscalls.setns(self._own_pids, syscalls.CLONE_NEWPID)

    def _fork_child(self, message: dict[str, Any], descriptors: list[int]) -> int:
        zygote_pid = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        log = descriptors[-1]
        try:
            # Nothing may close a descriptor number that the child has given another meaning.
            self._channel.detach()
            ruleset_fd = isolation.settle_descriptors(*descriptors, kept=self._ruleset_for(message["directory"]))
            log = 2
            jail.run(
                isolation.Confinement(
                    directory=message["directory"],
                    scratch_bytes=message["scratch_bytes"],
                    zygote_pid=zygote_pid,
                    layers=self._layers,
                    uid=isolation.uid_of(self._own_number, message["number"]),
                    view=self._view,
                    cuda=self._cuda,
                    ruleset_fd=ruleset_fd,
                    filter=self._filter,
                )
            )
        except BaseException:  # noqa: BLE001 - a bug of ours; the supervisor shows what is printed here
            os.write(log, traceback.format_exc().encode())
        finally:
            os._exit(70)

    def _ruleset_for(self, directory: str) -> int | None:
        """In a child: Landlock's rules, where its scratch is there already."""
        if self._ruleset is not None or self._rules is None or "scratch_tmpfs" in self._layers:
            return self._ruleset
        return isolation.own_ruleset(self._rules, directory)

    def _bury(self, child: Child) -> None:
        """Reap the child, end whatever of it is left, and report."""
        _, status = os.waitpid(child.pid, 0)
        os.close(child.pidfd)
        left = 0
        if child.nest is not None:
            child.nest.end()
        elif "descendants_killed" in self._layers:
            known = {other.pid for other in self._children.values()}
            left = processes.kill_orphans(known, sweeps=_SWEEPS)
        wire.send(self._channel, {"op": "exited", "number": child.number, "status": status, "survivors": left})
