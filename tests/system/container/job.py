"""Run inside the container: look at the box, submit one small job, wait for its result, print what was found.

Standard library only; the exit code is 0 if all of it holds.
"""

import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8080"
START_S = 120
JOB_S = 300

ENCODER = """
import zlib

def encode(frames, ctx):
    return zlib.compress(frames.cpu().numpy().tobytes(), 1)
"""
DECODER = """
import zlib
import torch

def decode(bitstream, ctx):
    clip = ctx.clip
    flat = torch.frombuffer(bytearray(zlib.decompress(bitstream)), dtype=torch.uint8)
    return flat.reshape(clip.frames, 3, clip.height, clip.width)
"""


def call(path: str, body: object = None) -> dict:
    """The JSON answer of a route; an error status raises with the problem's text."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=70) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{path}: {error.code} {error.read().decode()}") from None


def wait_until_ready() -> None:
    for _ in range(START_S):
        try:
            with urllib.request.urlopen(URL + "/readyz", timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"not ready after {START_S} s")


def unwritable(folder: str) -> bool:
    try:
        pathlib.Path(folder, "probe").write_text("x")
    except OSError:
        return True
    return False


def status_field(name: str) -> str:
    """A field of /proc/1/status, which is the service's."""
    lines = pathlib.Path("/proc/1/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(name + ":"))


def box() -> dict[str, bool]:
    return {
        "not root": os.getuid() == 10001 and status_field("Uid").split() == ["10001"] * 4,
        "no capabilities": int(status_field("CapEff"), 16) == 0 and int(status_field("CapBnd"), 16) == 0,
        "no new privileges": status_field("NoNewPrivs") == "1",
        "seccomp filter": status_field("Seccomp") == "2",
        "root file system read-only": bool(os.statvfs("/").f_flag & os.ST_RDONLY) and unwritable("/opt/bitlane"),
        "data writable": not unwritable("/data"),
    }


def main() -> None:
    held = box()
    began = time.monotonic()
    wait_until_ready()
    ready_s = time.monotonic() - began
    began = time.monotonic()
    spec = {"encoder": ENCODER, "decoder": DECODER, "clips": ["carphone"], "frames": {"start": 0, "count": 2}}
    job = call("/jobs", spec)
    while job["state"] in ("queued", "running") and time.monotonic() - began < JOB_S:
        job = call(f"/jobs/{job['id']}?wait=30")
    points = (job["report"] or {}).get("points", [])
    held["the job succeeded"] = job["state"] == "succeeded"
    jail = call("/readyz?verbose=1")["checks"]["jail"]
    held["the jail meets its minimum"] = jail["ok"]
    held["every point has bytes and a lossless picture"] = bool(points) and all(
        point["bitstream_bytes"] > 16 and point["lossless"] for point in points
    )
    json.dump(
        {
            "held": held,
            "ready_s": round(ready_s, 1),
            "job_s": round(time.monotonic() - began, 1),
            "error": job["error"],
            "points": points,
            "jail": jail,
            "lanes": call("/lanes"),
        },
        sys.stdout,
        indent=1,
    )
    sys.stdout.write("\n")
    sys.exit(0 if all(held.values()) else 1)


main()
