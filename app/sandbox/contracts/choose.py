"""Which contract a submission follows, from what ``sandbox.inspect`` read in its two sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.sandbox.contracts import CONTRACTS

_SIDES = {"encode": "encoder", "decode": "decoder"}
_REFUSED = ("compress_video_frame", "compress_video_tensor", "decompress_video_frame", "decompress_video_tensor")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """``errors`` are (field, message, line); without any, ``contract`` and ``frame_format`` hold."""

    contract: str | None = None
    frame_format: str = "rgb"
    errors: tuple[tuple[str, str, int | None], ...] = ()


def choose(wanted: str, encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> Chosen:
    """The contract that was asked for if the code can follow it, or for ``auto`` the one that its names show."""
    found = {"encode": encoder, "decode": decoder}
    if wanted == "auto":
        wanted = _by_names(encoder) or ""
        if not wanted:
            return Chosen(errors=(("encoder", _unknown(encoder), None),))
    elif wanted not in CONTRACTS:
        return Chosen(errors=(("contract", f"there is no contract {wanted!r}; accepted: {_accepted()}", None),))
    errors = [error for side, told in found.items() if (error := _lacking(wanted, side, told))]
    frame_format, wrong = _format(wanted, found)
    errors += wrong
    return Chosen(errors=tuple(errors)) if errors else Chosen(contract=wanted, frame_format=frame_format)


def _by_names(encoder: Mapping[str, Any]) -> str | None:
    for name, contract in reversed(CONTRACTS.items()):
        function = contract.functions["encode"]
        if function in encoder["names"] and not (name == "native" and _old_style(encoder)):
            return name
    return None


def _old_style(encoder: Mapping[str, Any]) -> bool:
    """``encode(frames)`` and ``encode(frames, output_path)`` are other contracts than ``encode(frames, ctx)``."""
    parameters = encoder["functions"].get("encode")
    return parameters is not None and (len(parameters) == 1 or parameters[1:2] == ["output_path"])


def _unknown(encoder: Mapping[str, Any]) -> str:
    refused = [name for name in _REFUSED if name in encoder["names"]]
    if "encode" in encoder["names"]:
        refused = [f"encode({', '.join(encoder['functions']['encode'])})"]
    told = f"{refused[0]} belongs to a contract that is not accepted here" if refused else "no known contract was found"
    if encoder["open"] and not refused:
        told += " (its names cannot be read from the code: say which with `contract`)"
    return f"{told}; the encoder has to define one of: {_accepted('encode')}"


def _accepted(side: str | None = None) -> str:
    return "; ".join(f"{name}: {contract.accepts[side]}" if side else name for name, contract in CONTRACTS.items())


def _lacking(contract: str, side: str, told: Mapping[str, Any]) -> tuple[str, str, int | None] | None:
    function = CONTRACTS[contract].functions[side]
    if function in told["names"] or told["open"]:
        return None
    accepts = CONTRACTS[contract].accepts[side]
    return _SIDES[side], f"the {_SIDES[side]} does not define {function}; contract {contract!r} expects {accepts}", None


def _format(contract: str, found: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[tuple[str, str, int | None]]]:
    """FORMAT of either side holds for both; two that differ, or one that is not known, are errors."""
    layouts = CONTRACTS[contract].layouts
    stated: dict[str, str] = {}
    errors: list[tuple[str, str, int | None]] = []
    for side, told in found.items():
        given = told["format"]
        if given is None:
            continue
        if given["value"] in layouts:
            stated[side] = given["value"]
        else:
            accepted = " or ".join(f'"{name}"' for name in layouts)
            errors.append((_SIDES[side], f"FORMAT has to be {accepted} with contract {contract!r}", given["line"]))
    if len(set(stated.values())) > 1:
        line = found["decode"]["format"]["line"]
        message = f'FORMAT is "{stated["decode"]}", but the encoder\'s is "{stated["encode"]}"'
        errors.append(("decoder", message, line))
    return next(iter(stated.values()), "rgb"), errors
