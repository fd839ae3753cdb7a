"""The service that the GPU tests drive, and what the machine says about its processes and its device."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_WITHIN_S = 180.0
JOB_WITHIN_S = 180.0
TERMINAL = ("succeeded", "failed", "cancelled")
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running Bitlane with the lanes ``cpu`` (on the CPU) and ``gpu`` (on ``cuda:0``)."""

    pid: int
    client: httpx.Client

    def submit(self, encoder: str, decoder: str, *, device: str = "gpu", **fields: object) -> Json:
        spec = {"encoder": encoder, "decoder": decoder, "device": device, "clips": ["carphone"], **fields}
        spec.setdefault("frames", {"start": 0, "count": 2})
        answer = self.client.post("/jobs", json=spec)
        assert answer.status_code == 202, answer.text
        job: Json = answer.json()
        return job

    def job(self, job_id: str, wait_s: int = 0) -> Json:
        job: Json = self.client.get(f"/jobs/{job_id}", params={"wait": wait_s}).raise_for_status().json()
        return job

    def ended(self, job_id: str) -> Json:
        deadline = time.monotonic() + JOB_WITHIN_S
        while time.monotonic() < deadline:
            job = self.job(job_id, wait_s=20)
            if job["state"] in TERMINAL:
                return job
        raise AssertionError(f"job {job_id} has not ended within {JOB_WITHIN_S:.0f} s")

    def run(self, encoder: str, decoder: str, **fields: object) -> Json:
        """Submit, and the job once it has succeeded."""
        job = self.ended(self.submit(encoder, decoder, **fields)["id"])
        assert job["state"] == "succeeded", job["error"]
        return job


def wait_warm(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    """Until both lanes can take a job."""
    deadline = time.monotonic() + READY_WITHIN_S
    lanes: list[Json] = []
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        with suppress(httpx.TransportError):
            lanes = client.get("/lanes").raise_for_status().json()["lanes"]
            if all(lane["state"] == "idle" for lane in lanes):
                return
        time.sleep(0.1)
    raise AssertionError(f"the lanes are not warm: {lanes}\n{log.read_text(errors='replace')[-4000:]}")


def device_memory_bytes() -> int:
    """What is in use on device 0, by nvidia-smi; skips the test where that does not run."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nvidia-smi does not tell the device's memory: {error}")
    return int(asked.stdout.split()[0]) * 2**20


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, open_ends = [], [pid]
    while open_ends:
        below = children.get(open_ends.pop(), [])
        found += below
        open_ends += below
    return found


def nvidia_files(pid: int) -> list[str]:
    """The NVIDIA device files that a process holds open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(link)
            if target.startswith("/dev/nvidia"):
                found.append(target)
    return found


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
