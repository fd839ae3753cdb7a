"""One supervisor for the whole battery, and one run of the naive evaluator for all controls that were chosen.

``BITLANE_TEST_SETUP`` names another set-up of jails than the best (``tests.sandbox.battery.supervisors``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from app.sandbox.supervisor import Supervisor
from tests.sandbox.battery import supervisors
from tests.sandbox.integrity.cheat import Outcome
from tests.sandbox.integrity.every import CHEATS, runnable
from tests.sandbox.integrity.play import World, make_world, play_naively


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("data"))


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
