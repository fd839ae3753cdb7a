"""A CUDA device and a service that has a lane on it; without the device every test here skips and says why."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cuda_service import Service, wait_warm

ROOT = Path(__file__).resolve().parents[2]
SERVE = "from bitlane.cli import main; main()"
# Asked in a process of its own: a test process that has opened CUDA would no longer show what the service does.
PROBE = """
try:
    import torch
except ImportError as error:
    print(f"skip: {error}")
else:
    if not torch.cuda.is_available():
        print(f"skip: torch {torch.__version__} finds no CUDA device")
    else:
        print(torch.cuda.get_device_name(0))
"""


@pytest.fixture(scope="session")
def cuda() -> str:
    """The name of the first CUDA device."""
    asked = subprocess.run([sys.executable, "-W", "ignore", "-c", PROBE], capture_output=True, text=True, check=False)
    said = asked.stdout.strip()
    if asked.returncode != 0 or not said:
        pytest.skip(f"no CUDA device: the probe ended with code {asked.returncode}: {asked.stderr.strip()[-300:]}")
    if said.startswith("skip: "):
        pytest.skip(said.removeprefix("skip: "))
    return said


@pytest.fixture(scope="session")
def service(cuda: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("gpu")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--data", str(folder / "data"), "--store", "sqlite", "--lanes", "cpu=cpu*1,gpu=cuda:0*1"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False) as client:
            wait_warm(process, client, log)
            yield Service(pid=process.pid, client=client)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
