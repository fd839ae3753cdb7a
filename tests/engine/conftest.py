from __future__ import annotations

import pytest

from tests.engine.world import World


@pytest.fixture
async def world(tmp_path):
    async with World(tmp_path).running() as world:
        yield world
    assert not world.fatal
