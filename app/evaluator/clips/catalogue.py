"""Every suite that can be asked for: the built-in ones and the operator's own under ``<data>/suites``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.domain.errors import ClipUnusable, NotFound
from app.domain.evaluation import Suite
from app.evaluator.clips.manifest import BUILT_IN, MANIFEST, read_suite


class SuiteCatalogue:
    """A ``ports.Catalogue`` that sees suites which are added while it lives.

    A manifest that cannot be used hides only its own suite; ``problems`` says why.
    """

    def __init__(self, data_dir: Path) -> None:
        self._own = data_dir / "suites"
        self._read: dict[Path, tuple[tuple[int, int], Suite | ClipUnusable]] = {}

    def suites(self) -> Sequence[Suite]:
        """Every usable suite, by name."""
        return [found for _, found in self._all() if isinstance(found, Suite)]

    def problems(self) -> dict[str, str]:
        """Why a suite that has a manifest cannot be used, by its folder's name."""
        return {name: str(found) for name, found in self._all() if isinstance(found, ClipUnusable)}

    def get(self, name: str) -> Suite:
        """The suite of that name. Raises ``NotFound``, or ``ClipUnusable`` if its manifest is broken."""
        for known, found in self._all():
            if known == name:
                if isinstance(found, ClipUnusable):
                    raise found
                return found
        raise NotFound(f"there is no suite {name!r}")

    def _all(self) -> list[tuple[str, Suite | ClipUnusable]]:
        built_in = {path.stem: path for path in sorted(BUILT_IN.glob("*.json"))}
        # A folder whose name starts with a dot is a suite that is still being added.
        own = {path.parent.name: path for path in self._own.glob(f"[!.]*/{MANIFEST}")}
        return [(name, self._suite(name, path)) for name, path in sorted({**own, **built_in}.items())]

    def _suite(self, name: str, path: Path) -> Suite | ClipUnusable:
        try:
            state = path.stat()
            stamp = (state.st_mtime_ns, state.st_size)
            if path not in self._read or self._read[path][0] != stamp:
                self._read[path] = (stamp, _named(name, path))
            return self._read[path][1]
        except OSError as error:
            return ClipUnusable(f"the manifest {path} cannot be read: {error}")


def _named(name: str, path: Path) -> Suite | ClipUnusable:
    try:
        suite = read_suite(path)
    except ClipUnusable as error:
        return error
    if suite.name != name:
        return ClipUnusable(f"the manifest {path} is of a suite named {suite.name!r}")
    return suite
