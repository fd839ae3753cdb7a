"""Clients that submit all the time, whatever happens to the service, and one that looks how their jobs are.

A client whose connection broke does what a client must do: it sends the same request again until it is answered.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.service import ENCODER, spec

SLOW_ENCODER = ENCODER.replace(
    "def encode(frames, ctx):\n", "import time\n\ndef encode(frames, ctx):\n    time.sleep(1)\n"
)
RAISING_ENCODER = "def encode(frames, ctx):\n    raise ValueError('as it was meant to')\n"
KINDS = {"honest": 8, "slow": 4, "raising": 2, "cancelled": 3, "repeated": 2}
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
CLIENTS = 3
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class End:
    """How a job was first seen to have ended."""

    state: str
    error_type: str | None
    finished_at: str


@dataclass(slots=True, eq=False)
class Book:
    """What was accepted, by job id with its kind, and how it was seen to end. Shared by all threads."""

    accepted: dict[str, str] = field(default_factory=dict)
    ended: dict[str, End] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, job_id: str, kind: str) -> None:
        with self.lock:
            self.accepted.setdefault(job_id, kind)

    def count(self, answer: str) -> None:
        with self.lock:
            self.answers[answer] = self.answers.get(answer, 0) + 1

    def unended(self) -> list[str]:
        with self.lock:
            return [job_id for job_id in self.accepted if job_id not in self.ended]

    def problem(self, what: str) -> None:
        with self.lock:
            if what not in self.problems:
                self.problems.append(what)


class Load:
    """``most_unended`` jobs wait or run at a time: more than can run at once, so that the queue is never empty."""

    def __init__(self, url: str, book: Book, seed: int, *, most_unended: int) -> None:
        self._url = url
        self._most_unended = most_unended
        self._book = book
        self._seed = seed
        self._submitting = True
        self._watching = True
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        self._watcher = threading.Thread(target=self._watch)

    def start(self) -> None:
        for thread in (*self._threads, self._watcher):
            thread.start()

    def end(self) -> None:
        """Submit nothing more; every request that was begun is carried through."""
        self._submitting = False
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        self._submitting = self._watching = False
        for thread in (*self._threads, self._watcher):
            thread.join()

    def _client(self, number: int) -> None:
        draw = random.Random(f"{self._seed} client {number}")
        with httpx.Client(base_url=self._url, timeout=20.0, trust_env=False) as http:
            count = 0
            while self._submitting:
                if len(self._book.unended()) >= self._most_unended:
                    time.sleep(_PAUSE_S)
                    continue
                count += 1
                kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
                self._submit(http, draw, kind, f"{kind}-{number}-{count}")

    def _submit(self, http: httpx.Client, draw: random.Random, kind: str, name: str) -> None:
        encoder = {"slow": SLOW_ENCODER, "cancelled": SLOW_ENCODER, "raising": RAISING_ENCODER}.get(kind, ENCODER)
        body = spec(encoder=encoder, device=draw.choice(["auto", "auto", "cpu", "gpu"]), labels={"kind": kind})
        if kind == "repeated":
            for _ in range(2):
                self._insist(http, kind, lambda: http.post("/jobs", json={**body, "experiment_id": name}))
            return
        self._insist(http, kind, lambda: http.put(f"/jobs/{name}", json=body))
        if kind == "cancelled":
            time.sleep(draw.uniform(0.0, 2.0))
            self._cancel(http, name)

    def _insist(self, http: httpx.Client, kind: str, send: Callable[[], httpx.Response]) -> None:
        """Until it is accepted."""
        while self._watching:
            answer = self._try(send)
            if answer is not None and answer.status_code == 202:
                self._book.accept(answer.json()["id"], kind)
                return
            if answer is not None and answer.status_code not in (429, 503):
                self._book.problem(f"a submission was answered with {answer.status_code}: {answer.text[:300]}")
                return
            time.sleep(_PAUSE_S)

    def _cancel(self, http: httpx.Client, job_id: str) -> None:
        while self._watching:
            answer = self._try(lambda: http.post(f"/jobs/{job_id}/cancel"))
            if answer is not None and answer.status_code in (202, 409):
                return
            if answer is not None and answer.status_code != 503:
                self._book.problem(f"cancelling {job_id} was answered with {answer.status_code}: {answer.text[:300]}")
                return
            time.sleep(_PAUSE_S)

    def _try(self, send: Callable[[], httpx.Response]) -> httpx.Response | None:
        try:
            answer = send()
        except httpx.HTTPError:
            self._book.count("broken connection")
            return None
        self._book.count(str(answer.status_code))
        return answer

    def _watch(self) -> None:
        """Every accepted job is looked at again and again until it has ended, and never may be unknown."""
        with httpx.Client(base_url=self._url, timeout=20.0, trust_env=False) as http:
            while self._watching:
                for job_id in self._book.unended():
                    self._look(http, job_id)
                time.sleep(_PAUSE_S)

    def _look(self, http: httpx.Client, job_id: str) -> None:
        try:
            answer = http.get(f"/jobs/{job_id}")
        except httpx.HTTPError:
            time.sleep(_PAUSE_S)
            return
        if answer.status_code == 404:
            self._book.problem(f"{job_id} was accepted and is not known")
            return
        if answer.status_code == 200:
            self._note(answer.json())

    def _note(self, job: dict[str, Any]) -> None:
        if job["state"] in TERMINAL:
            with self._book.lock:
                self._book.ended[job["id"]] = End(job["state"], job["error_type"], job["finished_at"])
