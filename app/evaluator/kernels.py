"""How the numeric kernels are compiled: each for one thread, so that no pool of ours disturbs a call that is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from numba import njit

Function: TypeAlias = Callable[..., Any]


def kernel(*, fastmath: bool | set[str] = False) -> Callable[[Function], Function]:
    """Compile at the first call and keep the machine code beside the source, or where ``NUMBA_CACHE_DIR`` says.

    Where neither can be written (a read-only image without that setting) it is compiled anew by each process.
    """

    def compiled(function: Function) -> Function:
        try:
            return njit(function, cache=True, nogil=True, fastmath=fastmath)
        except RuntimeError:
            return njit(function, nogil=True, fastmath=fastmath)

    return compiled
