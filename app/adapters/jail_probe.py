"""What jail this machine offers, tried once in a process of its own: the API process has threads and cannot try it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from pathlib import Path

from app.domain.errors import JailTooWeak
from app.domain.jail import Jail
from app.sandbox import environment
from app.sandbox.offer import missing

_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 30.0


async def probe(minimum: str, *, cuda: Collection[bool]) -> Jail:
    """The layers, held against ``minimum``: where there are lanes of both kinds, those that both offer.

    Raises ``JailTooWeak`` if they cannot be found out.
    """
    offers = [await _offered(cuda=kind) for kind in sorted(set(cuda))]
    shared = tuple(layer for layer in offers[0] if all(layer in offered for offered in offers))
    lacking = dict.fromkeys(part for offered in offers for part in missing(minimum, offered))
    return Jail(layers=shared, minimum=minimum, lacking=tuple(lacking))


async def _offered(*, cuda: bool) -> tuple[str, ...]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-s", "-P", "-m", "app.sandbox.offer", *(("cuda",) if cuda else ())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment.for_zygote(), "PYTHONPATH": str(_ROOT)},
        cwd="/",
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise JailTooWeak(f"trying the layers of the jail took longer than {_TIMEOUT_S:g} s") from None
    if process.returncode != 0:
        last = err.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise JailTooWeak(f"the layers of the jail could not be tried: {last[0]}")
    return tuple(out.decode().strip().split(","))
