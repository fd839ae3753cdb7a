"""Hostile messages from a seeded generator.

The standard library alone, and nothing of ours: the text of this module is also run inside real jails.
"""

from __future__ import annotations

import array
import json
import random
import socket
from dataclasses import dataclass
from typing import Any

KINDS = {
    "well-formed": 12,
    "failed": 10,
    "fields": 30,
    "bytes": 24,
    "noise": 8,
    "json": 8,
    "encoding": 3,
    "huge": 3,
    "descriptors": 6,
    "credentials": 2,
    "twice": 3,
    "flood": 1,
    # The slow ones: the supervisor waits a moment for what may still come.
    "empty": 0.06,
    "half-shut": 0.06,
    "shut": 0.06,
    "silent": 0.15,
}
_WORDS = (
    *("op", "token", "done", "failed", "loaded", "ready", "confined", "opened", "exited", "bytes", "self_reported"),
    *("error_type", "message", "traceback", "limit", "used", "device_peak_bytes", "status", "survivors", "number"),
    *("exception", "contract_violation", "memory_limit", "disk_limit", "process_limit", "integrity", "signalled"),
    *("wall_time_limit", "worker_lost", "internal_error", "dependency_unavailable", "", "\0", "\ud800", "\udfff\ud800"),
    *("x" * 3000, "\N{PILE OF POO}" * 700, "\x1b[2J\r\n", "../../etc/passwd", "NaN", "1e999", "__class__"),
)
_NUMBERS = (
    *(0, 1, -1, 7, 255, 256, 4096, 4097, 2**31, 2**32, 2**53, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, 10**400),
    *(0.0, -0.0, 0.5, -1.5, 5e-324, 1e308, -1e308, 2.0**53, float("nan"), float("inf"), float("-inf")),
)
_REPORTED = (
    *("exception", "invalid_output", "contract_violation", "integrity", "memory_limit", "gpu_memory_limit"),
    *("output_limit", "disk_limit", "process_limit"),
)
_HUGE = (60_000, 65_536, 65_537, 100_000, 150_000)
_TOO_HUGE = 250_000
_FLOOD = 64


@dataclass(frozen=True, slots=True)
class Sent:
    """What came to be sent first; ``more`` packets after it. ``data`` is None where nothing was, or no whole packet."""

    kind: str
    data: bytes | None
    descriptors: int = 0
    more: int = 0


def well_formed(rng: random.Random, answer: str, token: str) -> dict[str, Any]:
    """As an honest jail would answer."""
    message: dict[str, Any] = {"op": answer}
    if answer == "done":
        message["bytes"] = rng.choice((0, 1, 9, 4096))
        told = {f"k{index}": rng.choice((0, 1.5, True, -3)) for index in range(rng.choice((0, 1, 3, 64)))}
        message["self_reported"] = rng.choice((None, told))
        message["device_peak_bytes"] = rng.choice((0, 12345))
    return {**message, "token": token}


def failed(rng: random.Random, token: str) -> dict[str, Any]:
    """As a jail reports an exception."""
    return {
        "op": "failed",
        "error_type": rng.choice(_REPORTED),
        "message": rng.choice(("ValueError: no", "x" * 5000, "", None, "\ud800")),
        "traceback": rng.choice((None, "Traceback\n" * rng.choice((1, 2000)))),
        "limit": rng.choice((None, 1, *_NUMBERS)),
        "used": rng.choice((None, 2, *_NUMBERS)),
        "token": token,
    }


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, and NaN and infinity."""
    kind = rng.randrange(8 if depth < 4 else 5)
    if kind < 2:
        return rng.choice(_WORDS)
    if kind < 4:
        return rng.choice(_NUMBERS)
    if kind == 4:
        return rng.choice((None, True, False, [], {}))
    length = rng.choice((0, 1, 2, 3, 70 if depth == 0 else 4))
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(length)]
    return {rng.choice(_WORDS) + str(rng.randrange(3)) * rng.randrange(2): value(rng, depth + 1) for _ in range(length)}


def _with_other_fields(rng: random.Random, message: dict[str, Any]) -> dict[str, Any]:
    changed = dict(message)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        key = rng.choice((*changed, *_WORDS[:19]))
        how = rng.randrange(6)
        if how == 0:
            changed.pop(key, None)
        elif how == 1 and key in changed:
            changed[rng.choice(_WORDS)] = changed.pop(key)
        elif how == 2:
            changed[key] = [changed.get(key)]
        else:
            changed[key] = value(rng)
    return changed


def _with_other_bytes(rng: random.Random, data: bytes) -> bytes:
    held = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place, how = rng.randrange(len(held) + 1), rng.randrange(7)
        if how == 0:
            del held[place:]
        elif how == 1:
            held[place:place] = rng.randbytes(rng.choice((1, 2, 8)))
        elif how == 2:
            held[place:place] = rng.choice((b"{", b"[", b'"', b"}", b"]", b",", b":", b"\\u", b"\\ud800", b"9" * 5000))
        elif how == 3:
            held[place : place + rng.randrange(1, 9)] = b""
        elif how == 4:
            held[place:place] = held[: rng.randrange(1, 40)]
        elif how == 5:
            held[place:place] = b"[" * rng.choice((1, 10, 30_000))
        elif place < len(held):
            held[place] ^= 1 << rng.randrange(8)
    return bytes(held) or b"\0"


def _huge(rng: random.Random, message: dict[str, Any]) -> bytes:
    size = _TOO_HUGE if rng.randrange(40) == 0 else rng.choice(_HUGE)
    data = encoded(message)
    filling = rng.choice((b" ", b"\0", b"x", b"[", b'{"a":', b"9", b"\xf0"))
    filling = filling * (max(0, size - len(data)) // len(filling))
    # With blanks at the end of it a message stays what it is, up to the limit.
    return rng.choice((data + filling, filling + data, data[:-1] + b',"x":"' + filling + b'"}'))


def encoded(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def data_of(rng: random.Random, kind: str, answer: str, token: str) -> bytes:
    """One packet of a kind."""
    honest = well_formed(rng, answer, token)
    told = failed(rng, token) if kind == "failed" or rng.randrange(3) == 0 else honest
    if kind == "failed":
        return encoded(told)
    if kind == "fields":
        return encoded(_with_other_fields(rng, told))
    if kind == "bytes":
        return _with_other_bytes(rng, encoded(told))
    if kind == "noise":
        return rng.randbytes(rng.choice((1, 2, 3, 17, 400, 20_000)))
    if kind == "json":
        return encoded(value(rng))
    if kind == "encoding":
        text = encoded(told).decode()
        return text.encode(rng.choice(("utf-16", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig", "utf-7")))
    return _huge(rng, told) if kind == "huge" else encoded(honest)


def act(rng: random.Random, channel: socket.socket, answer: str, token: str) -> Sent:
    """Do one hostile thing in place of an answer; what it was."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "silent":
        return Sent(kind, None)
    if kind in ("shut", "half-shut"):
        channel.shutdown(socket.SHUT_RDWR if kind == "shut" else socket.SHUT_WR)
        return Sent(kind, None)
    data = b"" if kind == "empty" else data_of(rng, kind, answer, token)
    descriptors = rng.choice((1, 2, 3, 100, 253)) if kind == "descriptors" else 0
    try:
        channel.sendmsg([data], _beside(kind, descriptors))
    except OSError:
        return Sent("silent", None)
    more = {"twice": rng.choice((1, 2)), "flood": _FLOOD}.get(kind, 0)
    sent = sum(_another(rng, channel, answer, token) for _ in range(more))
    return Sent(kind, data or None, descriptors, sent)


def _beside(kind: str, descriptors: int) -> list[tuple[int, int, Any]]:
    if kind == "credentials":
        return [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, array.array("i", [1, 0, 0]))]
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * descriptors))] if descriptors else []


def _another(rng: random.Random, channel: socket.socket, answer: str, token: str) -> bool:
    data = data_of(rng, rng.choice(("well-formed", "failed", "fields", "noise")), answer, token)
    try:
        channel.send(data, socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True
