"""Everything that runs in a campaign, what may be killed of it, and a keeper that starts again what is down."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx

from tests.service import Bitlane
from tests.system.chaos import tree
from tests.system.chaos.orchestrator import Orchestrator
from tests.system.chaos.stores import Backend
from tests.system.chaos.tree import Process

LANES = "cpu=cpu,gpu=cpu"
# Short, so that a stop finds some jobs that end in it and some that have to be given back.
GRACE_S = "0.5"
# A machine that does other things as well is slow, but not this slow.
PATIENCE_S = 120.0
_TICK_S = 0.05
_VICTIM_WITHIN_S = 15.0
_STOP_PATIENCE_S = 60.0


class Machine:
    """``down`` says when what is down is to be started again; the keeper's thread does so.

    The keeper also starts a service that ended by itself, as a supervisor of services would. It must not end by itself
    unless its store is away.
    """

    def __init__(self, folder: Path, backend: Backend, draw: random.Random) -> None:
        self.backend = backend
        self.orchestrator = Orchestrator(folder)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.service = Bitlane(
            folder / "data",
            lanes=LANES,
            options=(*backend.options, "--orchestrator", self.orchestrator.url),
            env={**backend.env, "TMPDIR": str(self.temporary), "BITLANE_GRACE_S": GRACE_S},
        )
        self.kills: Counter[str] = Counter()
        self.stops = self.orchestrator_kills = 0
        self.problems: list[str] = []
        self._draw = draw
        self._down: dict[str, float] = {}
        self._lock = threading.RLock()
        self._keeping = True
        self._keeper = threading.Thread(target=self._keep)
        self._ghosts: set[Process] = set()

    def start(self) -> None:
        self.backend.start()
        self.orchestrator.start()
        self.service.start()
        self._keeper.start()

    def strike(self, kind: str) -> None:
        """Kill one process of that kind, once there is one; the API process if there is none for long."""
        if kind == "store":
            self._strike_store()
            return
        deadline = time.monotonic() + _VICTIM_WITHIN_S
        while time.monotonic() < deadline:
            if self._strike(kind):
                return
            time.sleep(_TICK_S)
        self.strike("api")

    def _strike(self, kind: str) -> bool:
        with self._lock:
            process = self.service.process
            if "service" in self._down or process is None or process.poll() is not None:
                return False
            members = tree.of_service(process.pid)
            victims = [member for member in members if member.role == kind]
            if not victims or not self._draw.choice(victims).kill():
                return False
            self._ghosts.update(members if kind == "api" else ())
            if kind == "api":
                process.wait()
                self._down["service"] = time.monotonic() + self._draw.choice([0.0, self._draw.uniform(0.0, 1.0)])
            self.kills[kind] += 1
            return True

    def _strike_store(self) -> None:
        with self._lock:
            if "store" not in self._down and self.backend.kill():
                self.kills["store"] += 1
                self._down["store"] = time.monotonic() + self._draw.choice([0.0, self._draw.uniform(0.0, 4.0)])

    def strike_orchestrator(self) -> None:
        with self._lock:
            if "orchestrator" not in self._down:
                self.orchestrator.kill()
                self.orchestrator_kills += 1
                self._down["orchestrator"] = time.monotonic() + self._draw.uniform(0.0, 5.0)

    def stop(self) -> None:
        """SIGTERM, and a new start."""
        with self._lock:
            self._down["service"] = float("inf")
        self._end_service()
        self.stops += 1
        with self._lock:
            self._down["service"] = 0.0

    def _end_service(self) -> None:
        process = self.service.process
        if process is None or process.poll() is not None:
            return
        self._ghosts.update(tree.of_service(process.pid))
        process.terminate()
        code = process.wait(timeout=_STOP_PATIENCE_S)
        # One that is stopped before it has installed its handlers ends by the signal itself.
        if code not in (0, -15) and self.backend.pid() is None:
            self.problems.append(f"the service was told to stop and ended with {code}")

    def settle(self) -> None:
        """Wait until everything is up again."""
        deadline = time.monotonic() + PATIENCE_S
        while self._down or not self._ready():
            if time.monotonic() > deadline:
                raise AssertionError(f"the service does not get ready; its log: {self.service.log}")
            time.sleep(_TICK_S)

    def _ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return self.service.http.get("/readyz").status_code == 200
        return False

    def working(self) -> bool:
        """Whether a lane runs a job."""
        with suppress(httpx.HTTPError):
            return any(lane["working"] for lane in self.service.http.get("/lanes").json()["lanes"])
        return False

    def undelivered(self) -> int:
        with suppress(httpx.HTTPError):
            checks = self.service.http.get("/readyz", params={"verbose": "1"}).json()["checks"]
            return int(checks["delivery"]["waiting"])
        return 1

    def end(self) -> None:
        """Stop the service for good; the store and the orchestrator stay up."""
        self._keeping = False
        self._keeper.join()
        self._end_service()

    def close(self) -> None:
        self._keeping = False
        if self._keeper.is_alive():
            self._keeper.join()
        if self.service.process is not None:
            self.service.process.kill()
            self.service.process.wait()
        self.service.http.close()
        self.orchestrator.kill()
        self.backend.kill()

    def survivors(self) -> list[Process]:
        """What still runs of what the service ever started, and should have ended with it."""
        processes = (self.orchestrator.process, self.service.process)
        own = {process.pid for process in processes if process is not None} | {self.backend.pid()}
        self._ghosts = {ghost for ghost in self._ghosts if ghost.alive}
        return [*self._ghosts, *tree.adopted({pid for pid in own if pid is not None})]

    def _keep(self) -> None:
        while self._keeping:
            with self._lock:
                self._raise_the_dead()
            time.sleep(_TICK_S)

    def _raise_the_dead(self) -> None:
        process = self.service.process
        if "service" not in self._down and process is not None and (code := process.poll()) is not None:
            if self.backend.pid() is None:
                self.problems.append(f"the service ended by itself with {code}")
            self._down["service"] = time.monotonic() + 0.2
        starts = {"service": self.service.launch, "store": self.backend.start, "orchestrator": self.orchestrator.start}
        for name in [name for name, at in self._down.items() if at <= time.monotonic()]:
            starts[name]()
            del self._down[name]
