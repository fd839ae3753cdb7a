"""Lanes, and the devices that they stand on.

A lane is a name, a torch device and a number of slots. A job that may use several lanes is taken by whichever is free
first; ``waiting`` has the order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.domain.errors import FieldError, InvalidSpec

MAX_SLOTS = 64


class Device(StrEnum):
    """The kinds of device that a lane can stand on."""

    CPU = "cpu"
    CUDA = "cuda"


class LaneMode(StrEnum):
    """What an operator has a lane do.

    ``paused`` starts nothing; what waits for it waits on. ``draining`` runs what waits and fits no other lane, and no
    such job is taken any more. What runs already is never touched.
    """

    OPEN = "open"
    PAUSED = "paused"
    DRAINING = "draining"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """``device`` is a torch device (``cpu``, ``cuda:0``)."""

    name: str
    device: str
    slots: int = 1

    @property
    def kind(self) -> Device:
        return Device(self.device.partition(":")[0])

    @property
    def note(self) -> str | None:
        """What a reader of the lane's name has to know: a lane named for a GPU may stand on the CPU."""
        if self.kind is Device.CPU and self.name.startswith(("gpu", "cuda")):
            return f"lane {self.name!r} stands on the CPU: its figures are not a GPU's"
        return None


_LANE = re.compile(r"(?P<name>[a-z][a-z0-9_-]{0,31})=(?P<device>cpu|cuda(?::\d{1,2})?)(?:\*(?P<slots>\d{1,3}))?")


def parse_lanes(text: str) -> tuple[Lane, ...]:
    """``cpu=cpu*2,gpu=cuda:0*1`` as lanes; ``none`` and the empty text are no lane. Raises ``ValueError``."""
    if text.strip() in ("", "none"):
        return ()
    lanes: list[Lane] = []
    for part in text.split(","):
        match = _LANE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a lane: write name=device*slots, for example gpu=cuda:0*1")
        slots = int(match["slots"] or 1)
        if not 1 <= slots <= MAX_SLOTS:
            raise ValueError(f"lane {match['name']!r} has {slots} slots: 1 to {MAX_SLOTS} are possible")
        if match["name"] in {"auto", "none"}:
            raise ValueError(f"a lane cannot be named {match['name']!r}: that word means something else")
        device = "cuda:0" if match["device"] == "cuda" else match["device"]
        lanes.append(Lane(name=match["name"], device=device, slots=slots))
    names = [lane.name for lane in lanes]
    if len(set(names)) != len(names):
        raise ValueError("two lanes have the same name")
    return tuple(lanes)


def eligible_lanes(device: str, lanes: Sequence[Lane]) -> frozenset[str]:
    """The names of the lanes that a job asking for ``device`` may use.

    A lane's name wins over a kind; ``auto`` is every lane; ``cuda`` and ``gpu`` are any CUDA lane. Raises
    ``InvalidSpec`` where nothing matches.
    """
    if device == "auto":
        found = frozenset(lane.name for lane in lanes)
    elif any(lane.name == device for lane in lanes):
        return frozenset({device})
    else:
        kind = "cuda" if device == "gpu" else device
        found = frozenset(lane.name for lane in lanes if kind in (lane.kind.value, lane.device))
    if not found:
        offered = ", ".join(f"{lane.name} ({lane.device})" for lane in lanes) or "none at all"
        raise InvalidSpec([FieldError(field="device", message=f"no lane for {device!r}; this service has: {offered}")])
    return found
