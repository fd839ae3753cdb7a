"""What the service depends on, misbehaving on demand, and a prober that sees whether it is alive meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx

from tests.connections import Connections
from tests.service import free_port

Mood = Literal["well", "unreachable", "slow", "500", "429", "garbage", "cut"]
SLOW_S = 10.0
_ANSWERS = {
    "well": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
    "slow": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
    "500": b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    "429": b"HTTP/1.1 429 Busy\r\nretry-after: 2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    "garbage": b"\x16\x03\x01 this is not HTTP\r\n\r\n",
}
T = TypeVar("T")


class LoopThread:
    """An event loop of its own beside a test that is not asynchronous."""

    def __enter__(self) -> LoopThread:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: list[AbstractAsyncContextManager[Any]] = []
        return self

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(timeout=30)

    def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Open it now, and close it at the end."""
        entered = self.run(context.__aenter__())
        self._open.append(context)
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for context in reversed(self._open):
            self.run(context.__aexit__(None, None, None))
        self.run(asyncio.sleep(0.1))  # what was closed is gone a moment later
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


class Orchestrator(Connections):
    """Takes results as its mood is. ``taken`` has the id of every push that was answered with 200."""

    def __init__(self, mood: Mood = "well") -> None:
        super().__init__()
        self.mood: Mood = mood
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tries = 0
        self.taken: list[str] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Orchestrator:
        await self.become(self.mood)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.become("unreachable")
        await self.hang_up()

    async def become(self, mood: Mood) -> None:
        """Unreachable is without a listening socket; every other mood answers."""
        self.mood = mood
        if mood == "unreachable" and self._server is not None:
            self._server.close()
            self._server = None
        elif mood != "unreachable" and self._server is None:
            self._server = await asyncio.start_server(self.accept, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mood = self.mood
        self.tries += 1
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value for name, value in lines}
        if mood == "cut":
            await reader.read(10)
            return
        await reader.readexactly(int(headers["content-length"]))
        if mood == "slow":
            await asyncio.sleep(SLOW_S)
        writer.write(_ANSWERS[mood])
        await writer.drain()
        if mood in ("well", "slow"):
            self.taken.append(headers["webhook-id"])


class Prober:
    """Asks ``/livez`` again and again while it is open, over one connection."""

    def __init__(self, url: str, *, pause_s: float = 0.02) -> None:
        self._url = f"{url}/livez"
        self._pause_s = pause_s
        self._stop = threading.Event()
        self.took_s: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Prober:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=40)

    def _run(self) -> None:
        with httpx.Client(timeout=30.0, trust_env=False) as http:
            while not self._stop.is_set():
                began = time.perf_counter()
                with suppress(httpx.HTTPError):
                    if http.get(self._url).status_code == 200:
                        self.took_s.append(time.perf_counter() - began)
                        self._stop.wait(self._pause_s)
                        continue
                self.failures.append(f"no answer after {time.perf_counter() - began:.1f} s")
                self._stop.wait(0.5)

    def quantile_s(self, q: float) -> float:
        ordered = sorted(self.took_s)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]

    def assert_alive(self) -> None:
        """Machines are noisy: the bound is for a loop that was blocked, the benchmark has the figures."""
        assert self.took_s and not self.failures, self.failures
        worst, p99 = max(self.took_s), self.quantile_s(0.99)
        assert worst < 1.0, f"/livez took {worst:.3f} s at worst, p99 {p99:.3f} s, {len(self.took_s)} probes"
