"""Every cheat twice: a naive evaluator falls for it, and the service gives nothing for it."""

from __future__ import annotations

import pytest

from app.sandbox.supervisor import Supervisor
from tests.sandbox.integrity.cheat import Cheat, Outcome, gained
from tests.sandbox.integrity.every import CHEATS, no_device, runnable
from tests.sandbox.integrity.play import World, play_jailed, play_naively, wrong

NAMES = [cheat.name for cheat in CHEATS]


def parameters() -> list[object]:
    return [
        pytest.param(cheat, id=cheat.name, marks=[pytest.mark.gpu] if cheat.device != "cpu" else []) for cheat in CHEATS
    ]


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("cheat", parameters())
def test_control(
    cheat: Cheat, controls: dict[str, Outcome], world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without a jail the cheat works: so the other test can fail."""
    reason = runnable(cheat)
    if reason is not None:
        pytest.skip(reason)
    outcome = controls[cheat.name]
    for _ in range(3):
        if gained(cheat, outcome) is None:
            # Channels of a few bits share the machine with everything else that runs on it.
            outcome = play_naively([cheat], world, tmp_path_factory.mktemp("again"))[cheat.name]
    assert gained(cheat, outcome), outcome


@pytest.mark.parametrize("cheat", parameters())
def test_jailed(cheat: Cheat, supervisor: Supervisor, world: World) -> None:
    """The service measures what is there, or names the submission's fault."""
    reason = cheat.unprevented or no_device(cheat)
    if reason is not None:
        pytest.skip(reason)
    assert wrong(cheat, play_jailed(cheat, supervisor, world)) is None
