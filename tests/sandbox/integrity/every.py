"""All cheats, and which of them this machine cannot run."""

from __future__ import annotations

import os

import torch

from tests.sandbox.integrity import (
    cheats_beside,
    cheats_calls,
    cheats_files,
    cheats_globals,
    cheats_kernel,
    cheats_measuring,
    cheats_outputs,
    cheats_processes,
    cheats_source,
)
from tests.sandbox.integrity.cheat import Cheat

_MODULES = (
    cheats_source,
    cheats_files,
    cheats_kernel,
    cheats_processes,
    cheats_globals,
    cheats_beside,
    cheats_measuring,
    cheats_outputs,
    cheats_calls,
)

CHEATS: tuple[Cheat, ...] = tuple(cheat for module in _MODULES for cheat in module.CHEATS)


def runnable(cheat: Cheat) -> str | None:
    """None, or why the cheat has no control here."""
    if cheat.no_control is not None:
        return cheat.no_control
    if cheat.needs_root and os.geteuid() != 0:
        return "only root can do this without a jail"
    return no_device(cheat)


def no_device(cheat: Cheat) -> str | None:
    """None, or why the cheat cannot run here at all."""
    if cheat.device != "cpu" and not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    return None
