"""The syntax check before queueing: sources are parsed in small processes that can be killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.domain.errors import FieldError
from app.ports import Inspection
from app.sandbox import environment
from app.sandbox.contracts import CONTRACTS
from app.sandbox.contracts.choose import Chosen, choose

TIMEOUT_S = 2.0
_PROCESSES = 2
_START_S = 15.0
_KEPT = 1024
_LINE_BYTES = 4 * 1024 * 1024
_ROOT = Path(__file__).resolve().parents[2]
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from app.sandbox import inspect; sys.path.pop(0); inspect.main()"

Found = dict[str, Any]


class _Crashed(Exception):
    """The process died of this source."""


class _TooLong(Exception):
    """The source could not be read in time."""


class _Reader:
    """One process; it is replaced when it dies or has to be killed."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """Send SIGKILL. (``Process.kill`` would reap a process that has just died under asyncio's hands.)"""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def read(self, source: str) -> Found:
        """Raises ``_Crashed`` or ``_TooLong``."""
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                process.stdin.write(json.dumps({"source": source}).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            await self.stop()
            raise _TooLong from None
        except (OSError, ValueError):
            line = b""
        except BaseException:
            await self.stop()
            raise
        if not line.endswith(b"\n"):
            await self.stop()
            raise _Crashed
        found: Found = json.loads(line)
        return found

    async def start(self) -> None:
        """Start the process and wait until it answers, so that no request pays for it."""
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None
        async with asyncio.timeout(_START_S):
            process.stdin.write(json.dumps({"source": "pass"}).encode() + b"\n")
            await process.stdin.drain()
            await process.stdout.readline()

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        self.kill()
        self._process = None
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-E", "-c", _BOOT, str(_ROOT)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment.allowed(),
                limit=_LINE_BYTES,
            )
        return self._process


class ProcessInspector:
    """Implements ``ports.Inspector``: an async context manager, or ``start`` and ``stop``.

    What was found in a source is kept by its hash, so that a repeat costs nothing.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._idle: asyncio.Queue[_Reader] = asyncio.Queue()
        self.readers = [_Reader(timeout_s) for _ in range(_PROCESSES)]
        self._kept: OrderedDict[str, Found] = OrderedDict()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        await asyncio.gather(*(reader.start() for reader in self.readers))
        for reader in self.readers:
            self._idle.put_nowait(reader)

    async def stop(self) -> None:
        await asyncio.gather(*(reader.stop() for reader in self.readers))

    async def inspect(self, encoder: str, decoder: str, contract: str) -> Inspection:
        if contract != "auto" and contract not in CONTRACTS:
            return _chosen(choose(contract, {}, {}))
        sources = {"encoder": encoder, "decoder": decoder}
        try:
            found = {side: await self._read(source) for side, source in sources.items()}
        except _TooLong:
            return Inspection(contract=None if contract == "auto" else contract, checked=False)
        errors = tuple(_field_error(side, told["error"]) for side, told in found.items() if "error" in told)
        if errors:
            return Inspection(errors=errors)
        return _chosen(choose(contract, found["encoder"], found["decoder"]))

    async def _read(self, source: str) -> Found:
        try:
            key = hashlib.sha256(source.encode()).hexdigest()
        except UnicodeEncodeError:
            return {"error": {"message": "the code is not valid Unicode", "line": None, "column": None}}
        if key not in self._kept:
            self._kept[key] = await self._ask(source)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    async def _ask(self, source: str) -> Found:
        reader = await self._idle.get()
        try:
            return await reader.read(source)
        except _Crashed:
            message = "the code could not be parsed: it is nested too deeply or takes too much memory"
            return {"error": {"message": message, "line": None, "column": None}}
        finally:
            self._idle.put_nowait(reader)


def _field_error(field: str, error: Found) -> FieldError:
    return FieldError(field=field, message=error["message"], line=error["line"], column=error["column"])


def _chosen(chosen: Chosen) -> Inspection:
    wrong = tuple(FieldError(field=field, message=message, line=line) for field, message, line in chosen.errors)
    return Inspection(contract=chosen.contract, frame_format=chosen.frame_format, errors=wrong)
