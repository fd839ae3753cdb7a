"""One zygote of each kind for the whole folder: they take seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.sandbox.supervisor import Supervisor
from tests.sandbox.jails import Lab


def _lab(scratch: pytest.TempPathFactory, *, namespaces: bool) -> Iterator[Lab]:
    root = str(scratch.mktemp("scratch"))
    supervisor = Supervisor(namespaces=namespaces, scratch_root=root)
    supervisor.warm()
    yield Lab(supervisor, root)
    supervisor.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """With whatever namespaces the machine offers."""
    yield from _lab(tmp_path_factory, namespaces=True)


@pytest.fixture(scope="session")
def plain_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Without namespaces, as in a container that refuses them."""
    yield from _lab(tmp_path_factory, namespaces=False)


@pytest.fixture(params=["namespaces", "plain"])
def each_lab(request: pytest.FixtureRequest) -> Lab:
    lab: Lab = request.getfixturevalue("lab" if request.param == "namespaces" else "plain_lab")
    return lab
