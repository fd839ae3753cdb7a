"""The keeper of the victim: starts it, and sees from outside whether anything was done to it."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import secrets
import subprocess
import sys
from pathlib import Path

_SYS_IOPRIO_GET = 252
_SCRIPT = Path(__file__).with_name("victim.py")
_libc = ctypes.CDLL(None, use_errno=True)


class Victim:
    """One process outside the jail, replaced by ``mend`` where it was harmed."""

    def __init__(self, folder: str) -> None:
        self.facts: dict[str, str] = {}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        name = f"vic{secrets.token_hex(5)}"
        contents = {kind: secrets.token_hex(16) for kind in ("environ", "memory", "fd")}
        command = [sys.executable, "-I", str(_SCRIPT), name, self._folder, contents["memory"], contents["fd"]]
        # Its arguments hold the secrets too, so that /proc/PID/cmdline is one more thing to steal.
        self._process = subprocess.Popen(
            command,
            env={"SECRET": contents["environ"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=self._folder,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self.facts = {f"victim_{kind}_content": content for kind, content in contents.items()}
        self.facts |= {f"victim_{key}": str(value) for key, value in told.items()}
        self.facts |= {"victim_pid": str(self._process.pid), "victim_name": name}
        self._before = self._state()

    def harm(self) -> str | None:
        """What was done to it, in words."""
        assert self._process is not None
        if self._process.poll() is not None:
            return f"the victim ended with {self._process.returncode}"
        now = self._state()
        changed = [f"{name} {old} -> {now[name]}" for name, old in self._before.items() if now[name] != old]
        return "the victim's " + ", ".join(changed) if changed else None

    def mend(self) -> None:
        if self.harm():
            self.close()
            self.start()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def _state(self) -> dict[str, str]:
        assert self._process is not None
        pid = self._process.pid
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(int(self.facts["victim_address"]))
            held = memory.read(int(self.facts["victim_length"]))
        return {
            "state": "stopped" if status["State"].split()[0] in "Tt" else "running",
            "tracer": status["TracerPid"].strip(),
            "memory": held.decode("latin-1"),
            "niceness": str(os.getpriority(os.PRIO_PROCESS, pid)),
            "cores": str(sorted(os.sched_getaffinity(pid))),
            "policy": str(os.sched_getscheduler(pid)),
            "open files": str(resource.prlimit(pid, resource.RLIMIT_NOFILE)),
            "io priority": str(_libc.syscall(_SYS_IOPRIO_GET, 1, pid)),
            "oom score": Path(f"/proc/{pid}/oom_score_adj").read_text().strip(),
        }
