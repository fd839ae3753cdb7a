"""The real service in a process of its own, for tests that drive it from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

BITLANE = Path(sys.executable).with_name("bitlane")

ENCODER = """
import zlib

def encode(frames, ctx):
    return zlib.compress(frames.cpu().numpy().tobytes())
"""
DECODER = """
import zlib
import numpy as np
import torch

def decode(bitstream, ctx):
    clip = ctx.clip
    flat = np.frombuffer(zlib.decompress(bitstream), np.uint8).copy()
    return torch.from_numpy(flat).reshape(clip.frames, 3, clip.height, clip.width)
"""
SLEEPER = "import time\n\ndef encode(frames, ctx):\n    time.sleep(60)\n    return b''\n"


def spec(**changes: Any) -> dict[str, Any]:
    """A small honest experiment: two frames of the smallest clip."""
    base = {
        "encoder": ENCODER,
        "decoder": DECODER,
        "clips": ["carphone"],
        "frames": {"start": 0, "count": 2},
    }
    return {**base, **changes}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bitlane:
    """One service. ``start`` may be called again after ``stop`` or ``kill``: the same data, the same port."""

    def __init__(
        self,
        data: Path,
        *,
        lanes: str = "cpu=cpu",
        options: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data.parent / f"{data.name}.log"
        self._command = [
            str(BITLANE),
            "serve",
            "--port",
            str(self.port),
            "--data",
            str(data),
            "--lanes",
            lanes,
            *options,
        ]
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BITLANE_")},
            "BITLANE_GRACE_S": "0",
            **(env or {}),
        }
        shown = {} if key is None else {"authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=self.url, timeout=70.0, trust_env=False, headers=shown)
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it without waiting until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self._env, stdout=log, stderr=log)

    def start(self) -> Bitlane:
        self.launch()
        wait_for(self._ready, within_s=60, what=f"{self.url} to be ready; its log: {self.log}")
        return self

    def _ready(self) -> bool:
        return self.answers("/readyz")

    def answers(self, path: str) -> bool:
        """Whether it says 200 there. Fails if the process has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
        try:
            return self.http.get(path).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=30)

    def __enter__(self) -> Bitlane:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.http.close()

    def submit(self, **changes: Any) -> dict[str, Any]:
        answer = self.http.post("/jobs", json=spec(**changes))
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/jobs/{job_id}").raise_for_status().json())

    def ended(self, job_id: str, *, within_s: float = 60.0) -> dict[str, Any]:
        job = dict(self.http.get(f"/jobs/{job_id}", params={"wait": min(60.0, within_s)}).raise_for_status().json())
        assert job["state"] in ("succeeded", "failed", "cancelled"), job
        return job

    def run(self, **changes: Any) -> dict[str, Any]:
        return self.ended(self.submit(**changes)["id"])


def wait_for(condition: Callable[[], object], *, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s:g} s for {what}")
        time.sleep(0.02)
