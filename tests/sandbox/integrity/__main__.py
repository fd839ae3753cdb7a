"""``python -m tests.sandbox.integrity``: every cheat through the service's own way, and a line for each.

Needs no pytest, so that it runs wherever the service does. The controls are the test's alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from app.domain.errors import PlatformError
from app.sandbox.supervisor import Supervisor
from tests.sandbox.battery import supervisors
from tests.sandbox.integrity.cheat import Cheat
from tests.sandbox.integrity.every import CHEATS, no_device
from tests.sandbox.integrity.play import World, make_world, play_jailed, wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox.integrity", description=__doc__)
    parser.add_argument("--setup", choices=tuple(supervisors.SETUPS), default="jailed")
    parser.add_argument("--only", action="append", metavar="NAME", help="this cheat; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    chosen = parser.parse_args()
    cheats = [cheat for cheat in CHEATS if not chosen.only or cheat.name in chosen.only]
    found = []
    with tempfile.TemporaryDirectory(prefix="bitlane-integrity-") as folder:
        os.chmod(folder, 0o711)
        for name in ("data", "scratch"):
            Path(folder, name).mkdir()
        supervisor = supervisors.make(chosen.setup, str(Path(folder, "scratch")))
        try:
            world = make_world(Path(folder, "data"))
            for cheat in cheats:
                found.append(_verdict(cheat, supervisor, world))
                _tell(found[-1], as_json=chosen.json)
        finally:
            supervisor.close()
    gained = sum(one["wrong"] is not None for one in found)
    skipped = sum(one["skipped"] is not None for one in found)
    if not chosen.json:
        told = f"{len(found)} cheats, {skipped} not played, {gained} not as they should be ({chosen.setup})"
        sys.stdout.write(told + "\n")
    return 1 if gained or not found else 0


def _verdict(cheat: Cheat, supervisor: Supervisor, world: World) -> dict[str, str | None]:
    skipped = cheat.unprevented or no_device(cheat)
    told = None
    if skipped is None:
        try:
            told = wrong(cheat, play_jailed(cheat, supervisor, world))
        except PlatformError as error:
            told = f"the service broke: {error}"
    return {"name": cheat.name, "wrong": told, "skipped": skipped}


def _tell(verdict: dict[str, str | None], *, as_json: bool) -> None:
    if as_json:
        line = json.dumps(verdict)
    else:
        word = "GAINED" if verdict["wrong"] else "not played" if verdict["skipped"] else "nothing"
        line = f"{word:10} {verdict['name']:28} {verdict['wrong'] or verdict['skipped'] or ''}"
    sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
