from __future__ import annotations

import pytest

from tests.service import Bitlane


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """One worker for all tests of this folder: a CPU lane, and a lane named gpu that stands on the CPU."""
    with Bitlane(tmp_path_factory.mktemp("api") / "data", lanes="cpu=cpu,gpu=cpu") as service:
        yield service
