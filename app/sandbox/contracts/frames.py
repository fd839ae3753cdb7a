"""Frames as arrays: views on flat memory, and the check of what a decoder hands back. Nothing is resized."""

from __future__ import annotations

import mmap
from typing import Any

from app.sandbox.contracts.base import Geometry
from app.sandbox.faults import ContractError


def planes(flat: Any, geometry: Geometry) -> list[Any]:
    """Views on flat uint8 memory (numpy), one for each shape of the geometry."""
    import numpy

    samples = numpy.frombuffer(flat, numpy.dtype(geometry.dtype).newbyteorder("<"))
    views, at = [], 0
    for shape in geometry.shapes:
        count = int(numpy.prod(shape))
        views.append(samples[at : at + count].reshape(shape))
        at += count
    return views


def write(arrays: list[Any], geometry: Geometry, output: mmap.mmap) -> None:
    """Check each array (numpy or torch, any device) and copy it. Raises ``ContractError`` with what came instead."""
    checked = []
    for index, (found, shape) in enumerate(zip(arrays, geometry.shapes, strict=True)):
        what = "frames" if len(arrays) == 1 else f"the {'YUV'[index]} plane"
        checked.append(_checked(found, shape, geometry.dtype, what))
    for view, array in zip(planes(output, geometry), checked, strict=True):
        view[...] = array


def _checked(found: Any, shape: tuple[int, ...], dtype: str, what: str) -> Any:
    expected = f"expected {what} as {dtype} of shape {list(shape)}"
    try:
        array = to_numpy(found)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        # A tensor without values of its own: sparse, quantised, on the meta device.
        raise ContractError("invalid_output", f"{expected}, got one that cannot be read: {error}") from None
    if array is None:
        raise ContractError("invalid_output", f"{expected}, got {type(found).__name__}")
    if tuple(array.shape) != shape or array.dtype.name != dtype:
        raise ContractError("invalid_output", f"{expected}, got {describe(array)}")
    return array


def to_numpy(found: Any) -> Any:
    """A numpy array of a tensor or an array, None for anything else."""
    import numpy
    import torch

    if isinstance(found, torch.Tensor):
        tensor = found.detach().to("cpu")
        return tensor.float().numpy() if tensor.dtype is torch.bfloat16 else tensor.resolve_conj().numpy()
    return found if isinstance(found, numpy.ndarray) else None


def describe(array: Any) -> str:
    """``float32 of shape [2, 3, 64, 64] with values that are not finite``."""
    import numpy

    told = f"{array.dtype.name} of shape {list(array.shape)}"
    if array.dtype.kind == "f" and not numpy.isfinite(array).all():
        told += " with values that are not finite"
    return told
