"""One supervisor for the whole battery, and one run of the naive evaluator for all controls that were chosen.

``BITLANE_TEST_SETUP`` names another set-up of jails than the best (``tests.sandbox.battery.supervisors``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.evaluator.clips.add import add_suite
from app.evaluator.clips.catalogue import SuiteCatalogue
from app.evaluator.clips.source import ClipSource
from app.sandbox.supervisor import Supervisor
from tests.evaluator.pictures import write_y4m
from tests.sandbox.battery import supervisors
from tests.sandbox.integrity.cheat import FLICKER, Outcome
from tests.sandbox.integrity.every import CHEATS, runnable
from tests.sandbox.integrity.play import World, play_naively


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """``noise`` and its twin ``copy`` (64x48, 3 frames), and small clips whose first samples differ."""
    folder: Path = tmp_path_factory.mktemp("data")
    paths = [folder / f"{name}.y4m" for name in ("noise", "copy", *FLICKER)]
    for number, path in enumerate(paths):
        if path.stem in FLICKER:
            write_y4m(path, frames=1, width=32, height=32, seed=number)
        else:
            write_y4m(path, seed=1)
    suite = add_suite(folder, "cheats", paths)
    for path in paths:
        path.unlink()
    suites = {"cheats": suite, "demo": SuiteCatalogue(folder).get("demo")}
    return World(data_dir=folder, suites=suites, source=ClipSource(folder))


@pytest.fixture(scope="session")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    setup = os.environ.get("BITLANE_TEST_SETUP", "jailed")
    supervisor = supervisors.make(setup, str(tmp_path_factory.mktemp("scratch")))
    supervisor.warm()
    yield supervisor
    supervisor.close()


@pytest.fixture(scope="session")
def controls(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """What the naive evaluator believes of every cheat whose control was chosen to run."""
    chosen = {item.name for item in request.session.items}
    cheats = [cheat for cheat in CHEATS if f"test_control[{cheat.name}]" in chosen and runnable(cheat) is None]
    return play_naively(cheats, world, tmp_path_factory.mktemp("naive"))
