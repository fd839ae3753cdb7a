"""An orchestrator in a process of its own that writes down every push that it takes, and can be killed at any moment.

Run as a program: it listens on a port and appends to a file. Some pushes are refused with 503, and of some the answer
is lost after the push was written down, as networks do.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.service import free_port

_REFUSED, _ANSWER_LOST = 0.02, 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    webhook_id: str
    body: dict[str, Any]


class Orchestrator:
    """``start`` and ``kill`` as often as wanted: the same port, the same file."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._file = folder / "pushes.jsonl"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", __spec__.name, str(self.port), str(self._file)]
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[3])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def accepted(self) -> list[Push]:
        """Every push that was written down. A line that a kill cut off was not answered either."""
        lines = self._file.read_bytes().split(b"\n") if self._file.exists() else []
        found = []
        for line in lines:
            try:
                told = json.loads(line)
            except ValueError:
                continue
            found.append(Push(webhook_id=told["id"], body=json.loads(told["body"])))
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        fate = random.random()
        if fate < _REFUSED:
            self._answer(503)
            return
        self.server.note({"id": self.headers["webhook-id"], "body": body.decode()})
        if fate < _REFUSED + _ANSWER_LOST:
            self.close_connection = True
            return
        self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, file: str) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, told: dict[str, Any]) -> None:
        # The line break comes first: what a kill cut off then spoils no line but its own.
        os.write(self._descriptor, b"\n" + json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    _Server(int(sys.argv[1]), sys.argv[2]).serve_forever()
