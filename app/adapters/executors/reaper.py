"""Ending a whole tree of processes from the event loop."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from contextlib import suppress

from app.domain.errors import WorkerLost
from app.sandbox import processes

_PAUSE_S = 0.005
_PATIENCE_S = 10.0


async def end_tree(process: asyncio.subprocess.Process) -> None:
    """Kill the process and all its descendants, and wait until every one of them is dead.

    The kernel would end the descendants by itself when their parent dies, but a moment later. ``process.kill`` is not
    used: it reaps a process that has just died under the hands of asyncio, which then does not know how it ended.
    """
    held = _descriptors(process.pid) if process.returncode is None else []
    try:
        for pidfd in held:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not _all_dead(held):  # noqa: ASYNC110 - the kernel tells, no event of ours could
                    await asyncio.sleep(_PAUSE_S)
                await process.wait()
        except TimeoutError:
            # Killed, and held up inside the kernel (a device's driver, a dead disk).
            raise WorkerLost(f"processes were killed and have not ended after {_PATIENCE_S:g} s") from None
    finally:
        for pidfd in held:
            os.close(pidfd)


def _descriptors(pid: int) -> list[int]:
    """Held by descriptor, so that no number can come to mean another process."""
    held = []
    for member in processes.tree_of(pid):
        with suppress(OSError):
            held.append(os.pidfd_open(member))
    return held


def _all_dead(pidfds: list[int]) -> bool:
    # Not select.select, which cannot take a descriptor of 1024 or more: the API process may have many.
    poller = select.poll()
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    return len(poller.poll(0)) == len(pidfds)
