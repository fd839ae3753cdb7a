"""Clips: where they come from, and how they get into memory.

The API process imports this package for the catalogue alone, so what needs numpy, PyAV and numba loads when it is first
asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from app.evaluator.clips.catalogue import SuiteCatalogue
from app.evaluator.clips.manifest import raw_bytes

if TYPE_CHECKING:
    from app.evaluator.clips.add import add_suite
    from app.evaluator.clips.source import ClipSource, OpenClip

__all__ = ["ClipSource", "OpenClip", "SuiteCatalogue", "add_suite", "raw_bytes"]

_HOMES = {"ClipSource": "source", "OpenClip": "source", "add_suite": "add"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
