"""A naive evaluator as a program: the cheats' positive control. It does what is easy and believes what it is told.

It writes the clip's frames to files, runs encoder and decoder in one interpreter (or one after the other in two plain
processes), hands over by reference, takes ``len`` of what comes, times with ``time.perf_counter`` beside the code, and
measures with the very torch and numpy that the code has imported.

JSON on stdin: ``{"cheats": [...], "clips": {...}}``. A cheat has ``name``, ``encoder``, ``decoder``, ``mode``,
``judge``, ``contract``, ``clips``, ``points``, ``mark`` and ``device``; a clip, by its name, ``frames``, ``height``,
``width`` and the files ``y4m``, ``rgb``, ``bgr`` and ``yuv420``. JSON on stdout: for each cheat ``{name, calls, left,
error}``. The current directory is where it may write.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import json
import math
import mmap
import os
import pickle
import pty
import select
import shutil
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

import numpy
import torch

PATIENCE_S = 12.0
KEPT: list[Any] = []
PERFECT_DB = 100.0


class Context:
    """``ctx`` as an evaluator passes it to both sides."""

    def __init__(self, clip: dict[str, Any], params: dict[str, Any], device: str) -> None:
        self.device = device
        self.seed = 0
        self.scratch = os.getcwd()
        self.assets: dict[str, Any] = {}
        self.params = params
        self.clip = types.SimpleNamespace(frames=clip["frames"], height=clip["height"], width=clip["width"], fps=25.0)


def load(filename: str) -> dict[str, Any]:
    """Run a file of the cheat's folder as a module."""
    module = types.ModuleType(filename.removesuffix(".py"))
    module.__file__ = os.path.join(sys.path[0], filename)
    sys.modules[module.__name__] = module
    with open(module.__file__, encoding="utf-8") as file:
        exec(compile(file.read(), filename, "exec"), module.__dict__)
    return module.__dict__


def frames_of(clip: dict[str, Any], layout: str) -> Any:
    """The clip's frames as the submission's format has them."""
    count, height, width = clip["frames"], clip["height"], clip["width"]
    flat = torch.from_numpy(numpy.fromfile(clip[layout], numpy.uint8))
    if layout == "rgb":
        return flat.reshape(count, 3, height, width)
    if layout == "bgr":
        return flat.reshape(count, height, width, 3)
    half = (count, -(-height // 2), -(-width // 2))
    luma, chroma = count * height * width, half[0] * half[1] * half[2]
    y, u, v = flat.split([luma, chroma, chroma])
    return y.reshape(count, height, width), u.reshape(half), v.reshape(half)


def flattened(found: Any) -> numpy.ndarray:
    """All samples, as they lie."""
    planes = found if isinstance(found, tuple | list) else [found]
    return numpy.concatenate(
        [numpy.asarray(plane.cpu() if hasattr(plane, "cpu") else plane).ravel() for plane in planes]
    )


def psnrs(decoded: Any, frames: Any) -> list[float]:
    """The same number by the ways that evaluators take; whatever fails is left out."""
    found: list[float] = []

    def by(mean_squared_error: Callable[[], Any]) -> None:
        with contextlib.suppress(Exception):
            error = float(mean_squared_error())
            found.append(10 * math.log10(255**2 / error) if error > 1e-9 else PERFECT_DB)

    count = min(len(decoded), len(frames))
    one, two = decoded[:count], frames[:count]
    by(lambda: torch.nn.functional.mse_loss(torch.as_tensor(one).float(), torch.as_tensor(two).float()))
    by(lambda: numpy.mean((numpy.asarray(one).astype(float) - numpy.asarray(two).astype(float)) ** 2))
    by(lambda: ((one.float() - two.float()) ** 2).mean())
    by(lambda: sum((a - b) ** 2 for a, b in zip(flattened(one).tolist(), flattened(two).tolist(), strict=False)) / 999)
    return [PERFECT_DB if math.isnan(value) else value for value in found]


def equal(decoded: Any, frames: Any) -> bool:
    """Whether any of the usual ways says that nothing was lost."""
    ways: list[Callable[[], Any]] = [
        lambda: (decoded == frames).all(),
        lambda: torch.equal(decoded, frames),
        lambda: numpy.array_equal(decoded, frames),
        lambda: digest(flattened(decoded)) == digest(flattened(frames)),
    ]
    for way in ways:
        with contextlib.suppress(Exception):
            if bool(way()):
                return True
    return False


def digest(samples: numpy.ndarray) -> str:
    return hashlib.sha256(samples.tobytes()).hexdigest()


def size_of(sent: Any) -> int:
    return int(sent["compressed_size"]) if isinstance(sent, dict) and "compressed_size" in sent else len(sent)


def believed(sent: Any, decoded: Any, frames: Any, encode_s: float, decode_s: float) -> dict[str, Any]:
    """The row that such an evaluator would publish."""
    told = [float(sent["psnr"])] if isinstance(sent, dict) and "psnr" in sent else []
    one, two = (item if not isinstance(item, tuple | list) else None for item in (decoded, frames))
    if one is None or two is None:
        one, two = (torch.from_numpy(flattened(item)) for item in (decoded, frames))
    samples, truth = flattened_or_none(decoded), flattened(frames)
    return {
        "raw_bytes": truth.size,
        "size_bytes": size_of(sent),
        "exact": equal(one, two),
        "psnr": max([*told, *psnrs(one, two)], default=0.0),
        "prefix_bytes": prefix_of(samples, truth),
        "first_agrees": bool(samples.size) and int(samples[0]) == int(truth[0]) % 16,
        "encode_s": encode_s,
        "decode_s": decode_s,
    }


def flattened_or_none(decoded: Any) -> numpy.ndarray:
    try:
        return flattened(decoded).astype(numpy.uint8)
    except Exception:  # noqa: BLE001 - the cheats return anything
        return numpy.empty(0, numpy.uint8)


def prefix_of(samples: numpy.ndarray, truth: numpy.ndarray) -> int:
    count = min(samples.size, truth.size)
    differs = numpy.flatnonzero(samples[:count] != truth[:count])
    return int(differs[0]) if differs.size else count


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    found = function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


def encode(module: dict[str, Any], frames: Any, context: Context) -> tuple[Any, float]:
    """Tolerant: what an encoder raises goes to a file, and the bitstream is empty."""
    try:
        if "setup" in module:
            module["setup"](context)
        return timed(module["encode"], frames, context)
    except Exception as error:  # noqa: BLE001 - as evaluators do
        traceback.print_exc()
        with open("errors.log", "w", encoding="utf-8") as file:
            file.write(str(error))
        return b"", 0.0


def decode(module: dict[str, Any], sent: Any, context: Context) -> tuple[Any, float]:
    if "setup" in module:
        module["setup"](context)
    return timed(module["decode"], sent, context)


def agent_encode(module: dict[str, Any], frames: Any, context: Context) -> tuple[dict[str, Any], float]:
    """Frame by frame; the size is what the dict says or what the file at ``output_path`` has."""
    told: dict[str, Any] = {"frames": [], "compressed_size": 0}
    seconds = 0.0
    for index, frame in enumerate(frames.numpy()):
        path = os.path.abspath(f"frame-{index}/compressed.bin")
        os.makedirs(os.path.dirname(path))
        returned, took = timed(module["run_encoding_agent"], context.device, frame, path)
        size = returned.get("compressed_size") or (os.path.getsize(path) if os.path.exists(path) else 0)
        told["frames"].append((returned, path))
        told["compressed_size"] += size
        told |= {"psnr": returned["psnr"]} if "psnr" in returned else {}
        seconds += took
    return told, seconds


def agent_decode(module: dict[str, Any], sent: dict[str, Any], context: Context) -> tuple[Any, float]:
    found, seconds = [], 0.0
    for returned, path in sent["frames"]:
        out = os.path.join(os.path.dirname(path), "decoded.png")
        decoded, took = timed(module["run_decoding_agent"], context.device, returned, path, out)
        found.append(torch.as_tensor(decoded["decoded_frame"] if isinstance(decoded, dict) else decoded))
        seconds += took
    return torch.stack(found), seconds


def calls_of(cheat: dict[str, Any], clips: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(clips[name], {"point": point}) for name in cheat["clips"] for point in range(cheat["points"])]


def layout_of(module: dict[str, Any], cheat: dict[str, Any]) -> str:
    return "bgr" if cheat["contract"] == "agent" else str(module.get("FORMAT", "rgb"))


def in_one_process(cheat: dict[str, Any], clips: dict[str, Any]) -> list[dict[str, Any]]:
    """Both modules live here, over all clips and rate points; what is decoded is measured at the end."""
    agent = cheat["contract"] == "agent"
    encoder, decoder, pending = None, None, []
    for clip, params in calls_of(cheat, clips):
        lay_out(clip)
        context = Context(clip, params, cheat["device"])
        encoder = encoder or load("encoder.py")
        frames = frames_of(clip, layout_of(encoder, cheat))
        sent, encode_s = (agent_encode if agent else encode)(encoder, frames, context)
        if isinstance(sent, bytes | bytearray):
            write("bitstream.bin", sent)
        decoder = decoder or load("decoder.py")
        decoded, decode_s = (agent_decode if agent else decode)(decoder, sent, context)
        pending.append((sent, decoded, frames, encode_s, decode_s))
    if cheat["judge"] == "clock":
        time.sleep(0.05)
    return [believed(*row) for row in pending]


def in_two_processes(cheat: dict[str, Any], clips: dict[str, Any]) -> list[dict[str, Any]]:
    """One plain process encodes everything, a second one then decodes everything. Both are this one's children."""

    def encode_all() -> list[Any]:
        encoder, sent = None, []
        for clip, params in calls_of(cheat, clips):
            lay_out(clip)
            encoder = encoder or load("encoder.py")
            found, took = encode(encoder, frames_of(clip, layout_of(encoder, cheat)), Context(clip, params, "cpu"))
            sent.append((bytes(found), took))
        return sent

    def decode_all() -> list[Any]:
        decoder, rows = None, []
        for (clip, params), (bitstream, encode_s) in zip(calls_of(cheat, clips), sent, strict=True):
            write("bitstream.bin", bitstream)
            decoder = decoder or load("decoder.py")
            decoded, decode_s = decode(decoder, bitstream, Context(clip, params, "cpu"))
            rows.append(believed(bitstream, decoded, frames_of(clip, layout_of(decoder, cheat)), encode_s, decode_s))
        return rows

    sent: list[Any] = in_child(encode_all) or [(b"", 0.0)] * len(calls_of(cheat, clips))
    return list(in_child(decode_all))


def call_by_call(cheat: dict[str, Any], clips: dict[str, Any]) -> list[dict[str, Any]]:
    """Two new processes for each call."""
    if len(cheat["clips"]) == 1:
        return in_two_processes(cheat, clips)
    return [row for name in cheat["clips"] for row in in_two_processes({**cheat, "clips": [name]}, clips)]


def in_child(function: Callable[[], Any]) -> Any:
    """What the function returns, from a process of its own; None if that ended without."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            try:
                write_all(writer, pickle.dumps(function()))
            except Exception:  # noqa: BLE001 - goes to the log of this call
                traceback.print_exc()
        os._exit(0)
    os.close(writer)
    data = read_all(reader, pid)
    return pickle.loads(data) if data else None


def write_all(fd: int, data: bytes) -> None:
    framed = len(data).to_bytes(8, "little") + data
    while framed:
        framed = framed[os.write(fd, framed) :]
    os.close(fd)


def read_all(fd: int, pid: int) -> bytes:
    """One framed message; empty if the process ends or the patience does. A daemon may hold the pipe open for ever."""
    data, deadline = b"", time.monotonic() + PATIENCE_S
    ended = False
    while len(data) < 8 or len(data) < 8 + int.from_bytes(data[:8], "little"):
        if select.select([fd], [], [], 0.02)[0]:
            more = os.read(fd, 1 << 20)
            if not more:
                break
            data += more
        elif ended or time.monotonic() > deadline:
            break
        else:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
    os.close(fd)
    if not ended:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return data[8:]


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def lay_out(clip: dict[str, Any]) -> None:
    """The clip's files, where everybody looks first."""
    shutil.copyfile(clip["y4m"], "clip.y4m")
    numpy.save("frames.npy", frames_of(clip, "rgb").numpy())


def evaluate(cheat: dict[str, Any], clips: dict[str, Any], number: int) -> dict[str, Any]:
    """One cheat in a folder and an evaluator process of its own, of which nothing is left."""
    folder = os.path.join(WORK, str(number))
    os.makedirs(folder)
    os.chdir(folder)
    write("encoder.py", cheat["encoder"].encode())
    write("decoder.py", cheat["decoder"].encode())
    if "big.bin" in cheat["encoder"]:
        with open("big.bin", "wb") as file:
            file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    run = in_one_process if cheat["mode"] == "one_process" else call_by_call

    def evaluator() -> Any:
        log = os.open("output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.path.insert(0, folder)
        prepare(clips[cheat["clips"][0]], cheat["mark"])
        calls = run(cheat, clips)
        return json.dumps({"calls": calls, "left": len(left_of(cheat))})

    found = in_child(evaluator)
    left = len(left_of(cheat))
    end_orphans()
    with contextlib.suppress(OSError):
        os.unlink(f"/dev/shm/frames-{cheat['mark']}")
    told = json.loads(found) if found else {"calls": [], "left": 0, "died": True}
    return {**told, "name": cheat["name"], "left": max(left, told["left"]), "error": None if found else log_tail()}


def prepare(clip: dict[str, Any], mark: str) -> None:
    """What evaluators hold while they work: the clip open and mapped, its frames in shared memory, a shared result."""
    lay_out(clip)
    file = open("clip.y4m", "rb")  # noqa: SIM115 - it stays open
    os.set_inheritable(file.fileno(), True)
    KEPT.extend([file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), frames_of(clip, "rgb")])
    shutil.copyfile(clip["rgb"], f"/dev/shm/frames-{mark}")
    shared = os.memfd_create("output")
    os.ftruncate(shared, os.path.getsize(clip["rgb"]))
    gc.collect()


def log_tail() -> str:
    with contextlib.suppress(OSError), open("output.log", encoding="utf-8", errors="replace") as file:
        return file.read()[-600:] or "it ended without a word"
    return "it ended without a result"


def left_of(cheat: dict[str, Any]) -> list[str]:
    """Threads, of any process, whose name is the mark, where that is what the cheat is about."""
    found: list[str] = []
    if cheat["judge"] != "leftover":
        return found
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8", errors="replace") as file:
                    if file.read().strip() == cheat["mark"]:
                        found.append(task)
    return found


def end_orphans() -> None:
    """As their subreaper, kill and reap all that a cheat has left running."""
    for _ in range(50):
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            pids = [int(pid) for pid in file.read().split()]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)


def settle() -> None:
    """Adopt what is orphaned, sit on a terminal, and keep kernel-wide names (hostname, System V objects) off the
    machine, where that is allowed: for both sides together, so that they are no more apart than before."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(36, 1, 0, 0, 0)
    libc.unshare(0x04000000 | 0x08000000)
    _, terminal = pty.openpty()
    os.dup2(terminal, 0)
    KEPT.append(_)


if __name__ == "__main__":
    order = json.load(sys.stdin)
    WORK = os.getcwd()
    settle()
    print(json.dumps([evaluate(cheat, order["clips"], number) for number, cheat in enumerate(order["cheats"])]))  # noqa: T201
