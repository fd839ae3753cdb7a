"""What every contract between a submission and the service consists of. Runs in the jail."""

from __future__ import annotations

import inspect
import mmap
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.sandbox.faults import ContractError


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """How frames lie in memory: ``rgb`` [T, 3, H, W], ``bgr`` [T, H, W, 3], ``yuv420`` Y [T, H, W] and then U and V.

    Samples are uint8, or little-endian uint16 above 8 bit.
    """

    layout: str
    frames: int
    height: int
    width: int
    fps: tuple[int, int]
    bit_depth: int = 8

    @property
    def chroma(self) -> tuple[int, int]:
        return -(-self.height // 2), -(-self.width // 2)

    @property
    def dtype(self) -> str:
        return "uint16" if self.bit_depth > 8 else "uint8"

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each array, in the order in which they lie."""
        frames, height, width = self.frames, self.height, self.width
        if self.layout == "yuv420":
            return (frames, height, width), (frames, *self.chroma), (frames, *self.chroma)
        return ((frames, 3, height, width),) if self.layout == "rgb" else ((frames, height, width, 3),)

    @property
    def nbytes(self) -> int:
        samples = 0
        for shape in self.shapes:
            product = 1
            for side in shape:
                product *= side
            samples += product
        return samples * (2 if self.bit_depth > 8 else 1)

    def to_message(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Geometry:
        return cls(**{**message, "fps": tuple(message["fps"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipInfo:
    """``ctx.clip``: ``frames``, ``height``, ``width`` as counts and ``fps`` as a float."""

    frames: int
    height: int
    width: int
    fps: float

    @classmethod
    def of(cls, geometry: Geometry) -> ClipInfo:
        numerator, denominator = geometry.fps
        return cls(frames=geometry.frames, height=geometry.height, width=geometry.width, fps=numerator / denominator)


@dataclass(kw_only=True)
class Context:
    """``ctx``: ``device`` is a torch device's name, ``scratch`` a private directory, ``assets`` read-only.

    ``params`` (the rate point) is None in a decoder. ``clip`` is there from ``setup`` on.
    """

    device: str
    seed: int
    scratch: str
    assets: Mapping[str, Any] = field(default_factory=lambda: types.MappingProxyType({}))
    params: dict[str, Any] | None = None
    clip: ClipInfo | None = None


# A function of the submission, called with arrays or bytes of the contract's kind.
Encode = Callable[[types.ModuleType, Any, Geometry, Context], "tuple[memoryview, Any]"]
Decode = Callable[[types.ModuleType, bytes, Geometry, Context, mmap.mmap], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """One way of writing a submission.

    ``functions`` maps ``encode`` and ``decode`` to the name that the module must define, ``accepts`` to how it is
    called. ``layouts`` maps the submission's FORMAT to how frames are handed over. ``encode`` gets flat uint8 frames
    and returns the bitstream and what the encoder said about itself; ``decode`` writes frames to the mapped output.
    Both raise ``ContractError``; what the submission raises passes through.
    """

    name: str
    functions: Mapping[str, str]
    accepts: Mapping[str, str]
    layouts: Mapping[str, str]
    check: Callable[[str, types.ModuleType], None]
    setup: Callable[[types.ModuleType, Context], None]
    encode: Encode
    decode: Decode
    warm_up: Callable[[], None]


def require_function(module: types.ModuleType, name: str, accepts: str) -> Any:
    """The callable that the module must define. Raises ``ContractError``."""
    function = getattr(module, name, None)
    if function is None:
        raise ContractError("contract_violation", f"{module.__name__}.py does not define {name}; expected {accepts}")
    if not callable(function):
        raise ContractError(
            "contract_violation", f"{name} in {module.__name__}.py cannot be called; expected {accepts}"
        )
    return function


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """None where Python cannot tell (builtins, some C functions)."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def require_arguments(function: Callable[..., Any], name: str, count: int, accepts: str) -> None:
    """Raise ``ContractError`` if the function cannot be called with ``count`` positional arguments."""
    signature = signature_of(function)
    if signature is None:
        return
    try:
        signature.bind(*[None] * count)
    except TypeError:
        raise ContractError("contract_violation", f"{name}{signature} cannot be called as {accepts}") from None
