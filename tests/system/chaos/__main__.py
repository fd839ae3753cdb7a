"""``python -m tests.system.chaos --kills 50 --store sqlite`` runs a campaign; a problem ends it with status 1."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.system.chaos import campaign, summary


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--store", choices=("sqlite", "dynamodb"), default="sqlite")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule; a fresh one if it is not named")
    parser.add_argument("--keep", action="store_true", help="write the figures to soak.json and into README")
    chosen = parser.parse_args()
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    folder = Path(tempfile.mkdtemp(prefix="bitlane-chaos-"))
    begun = time.monotonic()

    def tell(what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - begun:7.1f} s  {what}\n")

    tell(f"{chosen.kills} kills on {chosen.store}, --seed {seed}, in {folder}")
    found = campaign.run(store=chosen.store, kills=chosen.kills, seed=seed, folder=folder, tell=tell)
    sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n")
    if found.problems:
        tell(f"{len(found.problems)} problems; the service's log and data are in {folder}")
        return 1
    shutil.rmtree(folder)
    if chosen.keep:
        summary.keep(found)
        summary.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
