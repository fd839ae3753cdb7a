"""What submissions find different in the interpreter, since the jail would refuse it in less helpful words."""

from __future__ import annotations

import importlib.machinery
import mmap
import types
from collections.abc import Sequence
from typing import Any

from app.sandbox.root import PACKAGE_FOLDERS, PACKAGES


class OnlyShown:
    """A finder for ``sys.meta_path``: packages that are installed and not shown are not there, instead of refused."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """None, so that the other finders go on. Raises ``ModuleNotFoundError``."""
        if path is not None or name in PACKAGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name)
        places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
        if any(f"/{folder}/" in place for folder in PACKAGE_FOLDERS for place in places):
            raise ModuleNotFoundError(f"No module named {name!r} in the jail", name=name)
        return None


class PrivateMap(mmap.mmap):
    """Memory without a file is private: nobody could share it here, and as shared memory it would be refused."""

    def __new__(cls, fileno: int, length: int, *arguments: Any, **options: Any) -> PrivateMap:
        if fileno == -1 and not arguments and options.get("flags", mmap.MAP_SHARED) & mmap.MAP_SHARED:
            options.pop("access", None)
            options["flags"] = options.get("flags", mmap.MAP_SHARED) & ~mmap.MAP_SHARED | mmap.MAP_PRIVATE
        return super().__new__(cls, fileno, length, *arguments, **options)
