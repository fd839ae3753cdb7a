"""The command line ``bitlane``: commands that speak HTTP, and those that need the service's own code."""

from __future__ import annotations


def main() -> None:
    from app.cli import app, run
    from bitlane.show import show

    app.command()(show)
    run()
