"""What submissions find different in the interpreter, since the jail would refuse it in less helpful words."""

from __future__ import annotations

import importlib.machinery
import mmap
import types
from collections.abc import Sequence
from typing import Any

from app.sandbox.root import PACKAGE_FOLDERS, PACKAGES


class OnlyShown(importlib.machinery.PathFinder):
    """Takes the place of the interpreter's own finder: what is installed and not shown is not there, not refused."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = super().find_spec(fullname, path, target)
        if spec is None or path is not None or fullname in PACKAGES:
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or [])]
        hidden = any(f"/{folder}/" in place for folder in PACKAGE_FOLDERS for place in places)
        return None if hidden else spec


class PrivateMap(mmap.mmap):
    """Memory without a file is private: nobody could share it here, and as shared memory it would be refused."""

    def __new__(cls, fileno: int, length: int, *arguments: Any, **options: Any) -> PrivateMap:
        if fileno == -1 and not arguments and options.get("flags", mmap.MAP_SHARED) & mmap.MAP_SHARED:
            options.pop("access", None)
            options["flags"] = options.get("flags", mmap.MAP_SHARED) & ~mmap.MAP_SHARED | mmap.MAP_PRIVATE
        return super().__new__(cls, fileno, length, *arguments, **options)
