"""The supervisors that the battery runs against. This is the one place that knows how layers are left off."""

from __future__ import annotations

from collections.abc import Collection

from app.sandbox.offer import LAYERS, SEPARATED
from app.sandbox.supervisor import Supervisor

# With everything that the machine offers, without namespaces as in a default container, and without any layer.
SETUPS: dict[str, Collection[str]] = {"jailed": (), "plain": SEPARATED, "bare": LAYERS}


def make(setup: str, scratch_root: str | None = None, without: Collection[str] = ()) -> Supervisor:
    """A supervisor for one of ``SETUPS``, with further layers left off."""
    return Supervisor(without={*SETUPS[setup], *without}, scratch_root=scratch_root)
