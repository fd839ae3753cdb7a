"""The supervisor's end of one zygote: the process, its channel, and its answers sorted by jail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.sandbox import environment, wire
from app.sandbox.request import SandboxLost

READY_S = 120.0

_ROOT = Path(__file__).resolve().parents[2]
_BOOT = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); from app.sandbox import zygote; sys.path.pop(0); "
    "zygote.main(**json.loads(sys.argv[2]))"
)

Answer = tuple[dict[str, Any], list[int]]


class ZygoteLink:
    """Starts the zygote; ``close`` ends it and with it every jail.

    ``layers`` and ``versions`` are what it said when it got ready, empty before.
    """

    def __init__(self, *, without: Collection[str], cuda: bool) -> None:
        self.layers: tuple[str, ...] = ()
        self.versions: dict[str, str] = {}
        self._ready = False
        self._answers: dict[tuple[str, int], Answer] = {}
        self._forgotten: set[int] = set()
        self.channel, theirs = wire.pair()
        settings = {"socket_fd": theirs.fileno(), "parent_pid": os.getpid(), "without": list(without), "cuda": cuda}
        with theirs, ExitStack() as undo:
            undo.callback(self.channel.close)
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-c", _BOOT, str(_ROOT), json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=environment.for_zygote(),
                pass_fds=[theirs.fileno()],
            )
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def await_ready(self) -> bool:
        """Whether it has got ready only now. Raises ``SandboxLost``."""
        if self._ready:
            return False
        message, _ = self.answer("ready", 0, READY_S)
        self.layers = tuple(message["layers"])
        self.versions = message["versions"]
        self._ready = True
        return True

    def ask(self, message: dict[str, Any], descriptors: Collection[int]) -> None:
        """Send without waiting for the answer. Raises ``SandboxLost``."""
        try:
            wire.send(self.channel, message, list(descriptors))
        except wire.Closed:
            raise SandboxLost("the zygote is gone") from None

    def said(self, op: str, number: int) -> bool:
        """Whether this answer has come already."""
        while wire.readable(self.channel.fileno()):
            self._take_one()
        return (op, number) in self._answers

    def answer(self, op: str, number: int, patience_s: float) -> Answer:
        """The answer about this jail, whatever comes before it. Raises ``SandboxLost``."""
        deadline = time.monotonic() + patience_s
        while (op, number) not in self._answers:
            if ("failed", number) in self._answers:
                message, _ = self._answers.pop(("failed", number))
                raise SandboxLost(f"the zygote could not make a jail: {message.get('message')}")
            if not wire.readable(self.channel.fileno(), within_s=max(0.0, deadline - time.monotonic())):
                raise SandboxLost(f"the zygote did not say {op!r} within {patience_s:g} s")
            self._take_one()
        return self._answers.pop((op, number))

    def _take_one(self) -> None:
        try:
            message, received = wire.receive(self.channel, descriptors=1)
        except (wire.Closed, wire.WireError, OSError) as error:
            raise SandboxLost("the zygote is gone") from error
        op, number = message["op"], message.get("number", 0)
        if number not in self._forgotten:
            self._answers[(op, number)] = (message, received)
            return
        for fd in received:
            os.close(fd)
        if op in ("exited", "failed"):
            self._forgotten.discard(number)

    def forget(self, number: int) -> None:
        """Of a jail that is given up nothing is kept, neither what was said of it nor what will be."""
        known = [self._answers.pop((op, number), None) for op in ("forked", "failed", "exited")]
        for _, received in filter(None, known):
            for fd in received:
                os.close(fd)
        if known[1] is None and known[2] is None:
            self._forgotten.add(number)

    def close(self) -> None:
        """Safe to call twice."""
        for _, received in self._answers.values():
            for fd in received:
                os.close(fd)
        self._answers.clear()
        self.channel.close()
        self._process.kill()
        self._process.wait()
