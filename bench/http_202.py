"""How fast submissions are accepted, and what a queued one costs.

The only slot is held by a job that sleeps, so that everything else stays queued. ``GET /livez`` in the same run is what
HTTP alone costs here. Each body has 8 KB and code of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass

import harness

BODY_BYTES = 8 * 1024
SLEEPER = {
    "encoder": "import time\n\ndef encode(frames, ctx):\n    time.sleep(3000)\n",
    "decoder": "def decode(bitstream, ctx):\n    return None\n",
    "clips": ["carphone"],
    "frames": {"start": 0, "count": 1},
    "limits": {"wall_s": 3000},
}


@dataclass(frozen=True, kw_only=True)
class Load:
    name: str
    concurrency: int
    latencies_s: list[float]
    elapsed_s: float

    @property
    def p50_s(self) -> float:
        return harness.quantile(self.latencies_s, 0.5)

    @property
    def rate(self) -> float:
        return len(self.latencies_s) / self.elapsed_s


class Connection:
    """One kept-alive HTTP/1.1 connection: a client that costs as little as possible beside what it measures."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes) -> int:
        """Send a request, read the whole answer, return its status."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(length)
        return int(head[9:12])


def post(number: int, port: int) -> bytes:
    """A submission whose JSON has 8 KB."""
    comment = f"# {number} "
    spec = {
        "experiment_id": f"bench-{number}",
        "encoder": "def encode(frames, ctx):\n    return b'x'\n" + comment,
        "decoder": "def decode(bitstream, ctx):\n    return None\n",
        "suite": "demo",
        "clips": ["carphone"],
    }
    spec["encoder"] += "." * (BODY_BYTES - len(json.dumps(spec)))
    body = json.dumps(spec).encode()
    head = f"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


async def drive(name: str, port: int, requests: list[bytes], concurrency: int, expected: int) -> Load:
    """Send all requests over ``concurrency`` connections, each with one request in flight."""
    waiting, latencies = iter(requests), []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connection = Connection(reader, writer)
        for request in waiting:
            began = time.perf_counter()
            status = await connection.ask(request)
            latencies.append(time.perf_counter() - began)
            if status != expected:
                raise SystemExit(f"{name} answered {status} instead of {expected}")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(concurrency)])
    return Load(name=name, concurrency=concurrency, latencies_s=latencies, elapsed_s=time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=10_000, help="how many jobs are queued at the end")
    parser.add_argument("--alone", type=int, default=500, help="how many of them over one connection")
    options = parser.parse_args()
    with harness.service("cpu=cpu*1") as running:
        harness.wait_lanes(running)
        running.submit(SLEEPER)
        livez = f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode()
        posts = [post(number, running.port) for number in range(options.queued)]
        warm, alone, many = posts[:100], posts[100 : 100 + options.alone], posts[100 + options.alone :]
        loads = []
        asyncio.run(drive("GET /livez", running.port, [livez] * 100, 8, 200))
        before_bytes = running.rss_bytes()
        asyncio.run(drive("POST /jobs", running.port, warm, 8, 202))
        for concurrency, batch in ((1, alone), (32, many)):
            loads.append(asyncio.run(drive("GET /livez", running.port, [livez] * 2000, concurrency, 200)))
            loads.append(asyncio.run(drive("POST /jobs", running.port, batch, concurrency, 202)))
        after_bytes = running.rss_bytes()
        queued = running.get("/status")["queue_length"]
    report(loads, before_bytes, after_bytes, queued)


def report(loads: list[Load], before_bytes: int, after_bytes: int, queued: int) -> None:
    plain = {load.concurrency: load.p50_s for load in loads if load.name == "GET /livez"}
    rows = [
        [
            load.name,
            str(load.concurrency),
            str(len(load.latencies_s)),
            f"{1000 * load.p50_s:.2f}",
            f"{1000 * harness.quantile(load.latencies_s, 0.99):.2f}",
            f"{load.rate:.0f}",
            f"{load.p50_s / plain[load.concurrency]:.1f}",
        ]
        for load in loads
    ]
    harness.print_table(
        "Answers over HTTP", ("request", "connections", "requests", "p50 ms", "p99 ms", "a second", "p50 / livez"), rows
    )
    grown = after_bytes - before_bytes
    row = [f"{queued:,}", f"{before_bytes / 1e6:.1f}", f"{after_bytes / 1e6:.1f}", f"{grown / max(1, queued):,.0f}"]
    harness.print_table("Memory of the service's process", ("queued", "MB before", "MB after", "bytes a job"), [row])


if __name__ == "__main__":
    main()
