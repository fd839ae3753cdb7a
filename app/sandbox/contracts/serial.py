"""A closed, typed format for what a legacy encoder hands its decoder: no code hides in it, every byte is charged.

msgpack of None, booleans, numbers, strings, bytes, lists, maps, and arrays with dtype and shape. Tuples come back as
lists, numpy scalars as Python numbers, tensors as tensors (extension 2) and arrays as arrays (extension 1).
"""

from __future__ import annotations

import os
from typing import Any

from app.sandbox.faults import ContractError

_ARRAY, _TENSOR = 1, 2
_DTYPES = frozenset(
    {"bool", "complex64", "complex128", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_MAX_DEPTH = 64


def dumps(value: Any, what: str) -> bytes:
    """Serialise, naming the place of anything that has no form here. Raises ``ContractError``."""
    import msgpack

    packed: bytes = msgpack.packb(_plain(value, what, 0), use_bin_type=True)
    return packed


def loads(data: bytes) -> Any:
    """The inverse. Raises ``ContractError`` for bytes that ``dumps`` did not write."""
    import msgpack

    try:
        return msgpack.unpackb(data, ext_hook=_restore, strict_map_key=False, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ContractError("integrity", f"the bitstream cannot be read back: {error}") from None


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ContractError("contract_violation", f"{where} is nested deeper than {_MAX_DEPTH}")
    if value is None or isinstance(value, bool | float | str | bytes | bytearray | memoryview):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise ContractError("contract_violation", f"{where} is a whole number of more than 64 bits")
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {_key(key, where): _plain(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(items)]
    return _array(value, where)


def _key(key: Any, where: str) -> Any:
    if isinstance(key, str | bytes | int | float | bool) or key is None:
        return key
    raise ContractError("contract_violation", f"{where} has a key of type {type(key).__name__}: use strings or numbers")


def _array(value: Any, where: str) -> Any:
    import msgpack
    import numpy
    import torch

    if isinstance(value, numpy.generic) and value.dtype.name in _DTYPES and value.dtype.kind != "c":
        return value.item()
    tensor = isinstance(value, torch.Tensor)
    if tensor:
        if value.dtype is torch.bfloat16:
            raise ContractError("contract_violation", f"{where} is bfloat16: convert it to float16 or float32")
        value = value.detach().to("cpu").resolve_conj().numpy()
    if isinstance(value, numpy.ndarray) and value.dtype.name in _DTYPES:
        little = numpy.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
        body = msgpack.packb([value.dtype.name, list(value.shape), little.tobytes()], use_bin_type=True)
        return msgpack.ExtType(_TENSOR if tensor else _ARRAY, body)
    kind = f"{type(value).__name__}" + (f" of {value.dtype}" if isinstance(value, numpy.ndarray) else "")
    raise ContractError(
        "contract_violation",
        f"{where} is a {kind}, which cannot cross to the decoder: "
        "use numbers, strings, bytes, lists, dicts, numpy arrays or tensors",
    )


def _restore(code: int, body: bytes) -> Any:
    import msgpack
    import numpy
    import torch

    dtype, shape, raw = msgpack.unpackb(body, raw=False)
    if code not in (_ARRAY, _TENSOR) or dtype not in _DTYPES:
        raise ValueError("an unknown kind of value")
    array = numpy.frombuffer(raw, numpy.dtype(dtype).newbyteorder("<")).reshape(shape).copy()
    return torch.from_numpy(array) if code == _TENSOR else array
