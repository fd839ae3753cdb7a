"""The native contract: ``encode(frames, ctx) -> bytes`` and ``decode(bitstream, ctx) -> frames`` as tensors."""

from __future__ import annotations

import mmap
import types
from typing import Any

from app.sandbox.contracts import base, frames
from app.sandbox.contracts.base import Context, Contract, Geometry
from app.sandbox.faults import ContractError

_FUNCTIONS = {"encode": "encode", "decode": "decode"}
_ACCEPTS = {"encode": "encode(frames, ctx) -> bytes", "decode": "decode(bitstream, ctx) -> frames"}


def check(side: str, module: types.ModuleType) -> None:
    function = base.require_function(module, _FUNCTIONS[side], _ACCEPTS[side])
    base.require_arguments(function, _FUNCTIONS[side], 2, _ACCEPTS[side])
    if getattr(module, "setup", None) is not None:
        setup_function = base.require_function(module, "setup", "setup(ctx)")
        base.require_arguments(setup_function, "setup", 1, "setup(ctx)")


def setup(module: types.ModuleType, context: Context) -> None:
    function = getattr(module, "setup", None)
    if function is not None:
        function(context)


def encode(module: types.ModuleType, flat: Any, geometry: Geometry, context: Context) -> tuple[memoryview, None]:
    """Call ``encode`` with a uint8 tensor [T, 3, H, W], or with a tuple of planes for ``FORMAT = "yuv420"``."""
    import torch

    _require_format(module, geometry)
    tensors = [torch.from_numpy(view).to(context.device) for view in frames.planes(flat, geometry)]
    found = module.encode(tensors[0] if len(tensors) == 1 else tuple(tensors), context)
    return as_bytes(found, "encode"), None


def decode(module: types.ModuleType, bitstream: bytes, geometry: Geometry, context: Context, output: mmap.mmap) -> None:
    """Call ``decode`` and write what it returns: the shape and dtype that the encoder got, as tensor or numpy array."""
    _require_format(module, geometry)
    found = module.decode(bitstream, context)
    wanted = len(geometry.shapes)
    if wanted == 1:
        frames.write([found], geometry, output)
        return
    if not isinstance(found, tuple | list) or len(found) != wanted:
        raise ContractError("invalid_output", f"expected a tuple of the planes (Y, U, V), got {_name(found)}")
    frames.write(list(found), geometry, output)


def _require_format(module: types.ModuleType, geometry: Geometry) -> None:
    """FORMAT was read before the job was queued; code that computes another one gets no frames in the wrong form."""
    stated = getattr(module, "FORMAT", geometry.layout)
    if stated != geometry.layout:
        message = f"FORMAT is {stated!r}, but the job was accepted for {geometry.layout!r}: write it as a literal"
        raise ContractError("contract_violation", message)


def as_bytes(found: Any, function: str) -> memoryview:
    """A flat view on bytes-like content. Raises ``ContractError``."""
    try:
        return memoryview(found).cast("B")
    except TypeError:
        raise ContractError("invalid_output", f"expected bytes from {function}, got {_name(found)}") from None


def _name(found: Any) -> str:
    if found is None:
        return "None"
    array = frames.to_numpy(found)
    if array is not None:
        return f"{type(found).__name__} {frames.describe(array)}"
    size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
    return f"{type(found).__name__}{size}"


def warm_up() -> None:
    """Nothing beyond torch and numpy, which the zygote imports."""


CONTRACT = Contract(
    name="native",
    functions=_FUNCTIONS,
    accepts=_ACCEPTS,
    layouts={"rgb": "rgb", "yuv420": "yuv420"},
    check=check,
    setup=setup,
    encode=encode,
    decode=decode,
    warm_up=warm_up,
)
