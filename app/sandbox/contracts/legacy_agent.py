"""The legacy agents: ``run_encoding_agent(device, test_frame, output_path)`` and ``run_decoding_agent(device,
encoding_data, compressed_path, output_path)``, called once for each frame.

What the encoder returns and every file that it wrote beside ``output_path`` is serialised by the service and charged.
The decoder runs in another process and gets exactly that back. Older agents take fewer arguments: each is called with
what its signature accepts.
"""

from __future__ import annotations

import inspect
import mmap
import numbers
import os
import shutil
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.sandbox.contracts import base, frames, pictures, serial
from app.sandbox.contracts.base import Context, Contract, Geometry
from app.sandbox.faults import ContractError

_FUNCTIONS = {"encode": "run_encoding_agent", "decode": "run_decoding_agent"}
_ACCEPTS = {
    "encode": "run_encoding_agent(device, test_frame, output_path) or run_encoding_agent(device)",
    "decode": "run_decoding_agent(device, encoding_data, compressed_path, output_path) "
    "or run_decoding_agent(device, encoding_data)",
}
_ARGUMENTS = {
    "encode": ("device", "test_frame", "output_path"),
    "decode": ("device", "encoding_data", "compressed_path", "output_path"),
}
_COMPRESSED = "compressed.bin"
_FRAME_KEYS = ("reconstructed_frame", "decoded_frame", "reconstructed_frames", "decoded_frames", "frames", "frame")
_PATH_KEYS = ("output_path", "decoded_path", "reconstructed_path", "path")
_MAX_TOLD = 64


def check(side: str, module: types.ModuleType) -> None:
    name = _FUNCTIONS[side]
    function = base.require_function(module, name, _ACCEPTS[side])
    _arguments(function, name, dict.fromkeys(_ARGUMENTS[side]), _ACCEPTS[side])


def setup(module: types.ModuleType, context: Context) -> None:
    """Agents have no ``setup``."""


def encode(
    module: types.ModuleType, flat: Any, geometry: Geometry, context: Context
) -> tuple[memoryview, dict[str, Any] | None]:
    """One call a frame (BGR uint8 [H, W, 3]); the bitstream is the list of what each returned and wrote."""
    packed, told = [], None
    for index, frame in enumerate(frames.planes(flat, geometry)[0]):
        folder = _enter(context, index)
        given = {"device": context.device, "test_frame": frame, "output_path": str(folder / _COMPRESSED)}
        returned = _call(module, "encode", given)
        packed.append({"data": returned, "files": _files(folder)})
        told = told or _numbers(returned)
        shutil.rmtree(folder, ignore_errors=True)
    return memoryview(serial.dumps(packed, "the encoder's result")), told


def decode(module: types.ModuleType, bitstream: bytes, geometry: Geometry, context: Context, output: mmap.mmap) -> None:
    """One call a frame, with the dict and the files of that frame alone."""
    import numpy

    packed = serial.loads(bitstream)
    if not isinstance(packed, list) or len(packed) != geometry.frames or not all(map(_is_frame, packed)):
        raise ContractError("integrity", f"the bitstream does not hold {geometry.frames} frames")
    target = frames.planes(output, geometry)[0]
    one = Geometry(**{**geometry.to_message(), "frames": 1})
    room = mmap.mmap(-1, one.nbytes, flags=mmap.MAP_PRIVATE)
    for index, item in enumerate(packed):
        folder = _enter(context, index)
        frames.write([_decode_frame(module, item, folder, context)], one, room)
        target[index] = numpy.frombuffer(room, target.dtype).reshape(target.shape[1:])
        shutil.rmtree(folder, ignore_errors=True)


def _is_frame(item: Any) -> bool:
    """Whether it has the form that ``encode`` gives, with file names that stay in the frame's directory."""
    if not isinstance(item, dict) or set(item) != {"data", "files"} or not isinstance(item["files"], dict):
        return False
    return all(
        isinstance(name, str) and isinstance(content, bytes) and ".." not in Path(name).parts and name[:1] != "/"
        for name, content in item["files"].items()
    )


def _enter(context: Context, index: int) -> Path:
    """The frame's own directory, as the current one. Both sides use the same name, so that paths in the dict hold."""
    folder = Path(context.scratch, f"frame-{index:05d}")
    folder.mkdir()
    os.chdir(folder)
    return folder


def _decode_frame(module: types.ModuleType, item: Any, folder: Path, context: Context) -> Any:
    """The frame that one call gave, as [1, H, W, 3]."""
    files = item["files"]
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    outputs = folder / ".decoded"
    outputs.mkdir()
    given = {
        "device": context.device,
        "encoding_data": item["data"],
        "compressed_path": str(folder / (next(iter(files)) if len(files) == 1 else _COMPRESSED)),
        "output_path": str(outputs / "decoded.png"),
    }
    return _single(_found_frames(_call(module, "decode", given), outputs))


def _found_frames(returned: Any, outputs: Path) -> Any:
    """What was returned, or is under one of the usual keys, or was written as a file."""
    if isinstance(returned, Mapping):
        for key in _FRAME_KEYS:
            if returned.get(key) is not None:
                return returned[key]
        named = [returned[key] for key in _PATH_KEYS if isinstance(returned.get(key), str | os.PathLike)]
        returned = named[0] if named else None
    if isinstance(returned, str | os.PathLike) and Path(returned).is_file():
        return pictures.read(Path(returned))
    if returned is None or isinstance(returned, str | bool | numbers.Number):
        written = sorted(path for path in outputs.iterdir() if path.is_file())
        if len(written) != 1:
            told = f"{len(written)} files" if written else "no frame and no file"
            raise ContractError("invalid_output", f"expected one frame from run_decoding_agent, got {told}")
        return pictures.read(written[0])
    return returned


def _single(found: Any) -> Any:
    if isinstance(found, tuple | list):
        if len(found) != 1:
            raise ContractError("invalid_output", f"expected one frame from run_decoding_agent, got {len(found)}")
        found = found[0]
    array = frames.to_numpy(found)
    if array is None:
        raise ContractError(
            "invalid_output", f"expected a frame as uint8 [H, W, 3] from run_decoding_agent, got {type(found).__name__}"
        )
    return array[None] if array.ndim == 3 else array


def _call(module: types.ModuleType, side: str, given: dict[str, Any]) -> Any:
    name = _FUNCTIONS[side]
    function = getattr(module, name)
    positional, named = _arguments(function, name, given, _ACCEPTS[side])
    return function(*positional, **named)


def _arguments(
    function: Callable[..., Any], name: str, given: dict[str, Any], accepts: str
) -> tuple[list[Any], dict[str, Any]]:
    """As many of ``given``, in their order, as the signature takes; by name where it says so."""
    signature = base.signature_of(function)
    if signature is None:
        return list(given.values()), {}
    kinds = inspect.Parameter
    parameters = list(signature.parameters.values())
    if any(parameter.kind is kinds.VAR_POSITIONAL for parameter in parameters):
        return list(given.values()), {}
    places = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    positional = _in_order(places, given)
    keywords = {p.name: given[p.name] for p in parameters if p.kind is kinds.KEYWORD_ONLY and p.name in given}
    try:
        signature.bind(*positional, **keywords)
    except TypeError:
        raise ContractError("contract_violation", f"{name}{signature} cannot be called as {accepts}") from None
    return positional, keywords


def _in_order(places: list[inspect.Parameter], given: dict[str, Any]) -> list[Any]:
    """Each place gets the value of its own name if all required names are known, else the value of its position."""
    required = [place for place in places if place.default is inspect.Parameter.empty]
    if all(place.name in given for place in required):
        chosen = []
        for place in places:
            if place.name not in given:
                break
            chosen.append(given[place.name])
        return chosen
    return list(given.values())[: len(places)]


def _files(folder: Path) -> dict[str, bytes]:
    """Everything that was written there, by its name relative to the folder."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def _numbers(returned: Any) -> dict[str, Any] | None:
    """The numbers that an encoder says about itself; they are shown and used for nothing."""
    if not isinstance(returned, Mapping):
        return None
    told: dict[str, Any] = {}
    for key, value in list(returned.items())[:_MAX_TOLD]:
        if isinstance(key, str) and isinstance(value, numbers.Real) and abs(float(value)) < 2**53:
            told[key[:64]] = value if isinstance(value, bool | int) else float(value)
    return told or None


def warm_up() -> None:
    """What this contract reads files with."""
    import av
    import msgpack
    import PIL.PngImagePlugin

    assert av and msgpack and PIL


CONTRACT = Contract(
    name="agent",
    functions=_FUNCTIONS,
    accepts=_ACCEPTS,
    layouts={"rgb": "bgr"},
    check=check,
    setup=setup,
    encode=encode,
    decode=decode,
    warm_up=warm_up,
)
