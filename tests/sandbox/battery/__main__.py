"""``python -m tests.sandbox.battery``: the whole battery, or one attack, and a line for each verdict."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict

from tests.sandbox.battery import supervisors
from tests.sandbox.battery.catalogue import ATTACKS
from tests.sandbox.battery.runner import Verdict, run
from tests.sandbox.battery.world import World
from tests.sandbox.jails import Lab


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox.battery", description=__doc__)
    parser.add_argument("--setup", choices=tuple(supervisors.SETUPS), default="jailed")
    parser.add_argument("--without", action="append", default=[], metavar="LAYER", help="leave this layer off")
    parser.add_argument("--only", action="append", metavar="NAME", help="this attack or group; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    chosen = parser.parse_args()
    attacks = [one for one in ATTACKS if not chosen.only or {one.name, one.group} & set(chosen.only)]
    bare = chosen.setup == "bare"
    wrong = 0
    with World() as world, tempfile.TemporaryDirectory(prefix="bitlane-battery-scratch-") as scratch:
        os.chmod(scratch, 0o711)
        supervisor = supervisors.make(chosen.setup, scratch, chosen.without)
        try:
            lab = Lab(supervisor, scratch)
            for attack in attacks:
                verdict = run(lab, attack, world, bare=bare)
                wrong += verdict.got_through != bare and not (bare and verdict.no_control)
                _tell(verdict, as_json=chosen.json)
        finally:
            supervisor.close()
        left = os.listdir(scratch)
        if left:
            wrong += 1
            sys.stdout.write(f"left behind: {', '.join(left)}\n")
    if not chosen.json:
        sys.stdout.write(f"{len(attacks)} attacks, {wrong} not as they should be ({chosen.setup})\n")
    return 1 if wrong or not attacks else 0


def _tell(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps(asdict(verdict))
    else:
        word = "GOT THROUGH" if verdict.got_through else "stopped"
        about = f"no control: {verdict.no_control}" if verdict.no_control else verdict.evidence
        line = f"{word:11} {verdict.name:28} {verdict.took_s:6.2f} s  {about!r}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
