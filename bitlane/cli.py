"""The command line ``bitlane``: hands the commands that need the service's own code to it."""

from __future__ import annotations


def main() -> None:
    from app.cli import run

    run()
