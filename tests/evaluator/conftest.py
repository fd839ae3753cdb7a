from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.evaluator.clips import ClipSource, SuiteCatalogue

SHARED = Path(__file__).parents[3] / "shared" / "clips"


@pytest.fixture(scope="session")
def shared_clip() -> Callable[[str], Path]:
    """The path of one of the shared clips; skips where they are absent."""

    def find(name: str) -> Path:
        if not (SHARED / name).is_file():
            pytest.skip(f"the shared clips are not beside the repository: no {SHARED / name}")
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> ClipSource:
    return ClipSource(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory):
    return SuiteCatalogue(tmp_path_factory.mktemp("none")).get("demo")
