"""One zygote of each kind for the whole folder: they take seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.sandbox.offer import SEPARATED
from app.sandbox.supervisor import Supervisor
from tests.sandbox.jails import Lab


def _lab(scratch: pytest.TempPathFactory, *without: str) -> Iterator[Lab]:
    root = str(scratch.mktemp("scratch"))
    supervisor = Supervisor(without=without, scratch_root=root)
    supervisor.warm()
    yield Lab(supervisor, root)
    supervisor.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """With every layer that the machine offers."""
    yield from _lab(tmp_path_factory)


@pytest.fixture(scope="session")
def plain_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Without namespaces, as in a container that refuses them."""
    yield from _lab(tmp_path_factory, *SEPARATED)


@pytest.fixture(scope="session")
def forking_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Without the filter that refuses to start processes: what else ends and counts them."""
    yield from _lab(tmp_path_factory, "seccomp")


@pytest.fixture(scope="session")
def forking_plain_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from _lab(tmp_path_factory, "seccomp", *SEPARATED)


@pytest.fixture(params=["namespaces", "plain"])
def each_lab(request: pytest.FixtureRequest) -> Lab:
    lab: Lab = request.getfixturevalue("lab" if request.param == "namespaces" else "plain_lab")
    return lab


@pytest.fixture(params=["namespaces", "plain"])
def each_forking_lab(request: pytest.FixtureRequest) -> Lab:
    lab: Lab = request.getfixturevalue("forking_lab" if request.param == "namespaces" else "forking_plain_lab")
    return lab
