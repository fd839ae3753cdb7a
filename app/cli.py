"""The commands that need the service's own code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from app.cli_common import DataOption, fail, settings_of
from app.cli_keys import app as keys_app
from app.domain.errors import BitlaneError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
suite_app = typer.Typer(no_args_is_help=True, help="Suites of clips to measure on.")
app.add_typer(suite_app, name="suite")
app.add_typer(keys_app, name="keys")


@app.callback()
def main() -> None:
    """Bitlane queues, jails and measures neural video codecs."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: 8080]")] = None,
    data: DataOption = None,
    lanes: Annotated[
        str | None, typer.Option(help="name=device*slots, comma-separated; none; auto. [default: auto]")
    ] = None,
    store: Annotated[Literal["sqlite", "dynamodb"] | None, typer.Option(help="[default: sqlite]")] = None,
    orchestrator: Annotated[str | None, typer.Option(help="Base URL that results are pushed to.")] = None,
    worker_id: Annotated[str | None, typer.Option(help="This service's name in results.")] = None,
    public_url: Annotated[str | None, typer.Option(help="This service's URL as others reach it.")] = None,
    trusted_network: Annotated[
        bool | None, typer.Option("--trusted-network", help="Listen beyond loopback without any key.")
    ] = None,
) -> None:
    """Start the service. Every option is also a setting in the environment: BITLANE_HOST, BITLANE_PORT ..."""
    settings = settings_of(
        host=host,
        port=port,
        data=data,
        lanes=lanes,
        store=store,
        orchestrator=orchestrator,
        worker_id=worker_id,
        public_url=public_url,
        trusted_network=trusted_network,
    )
    from app.server import run  # the web framework takes a moment that other commands do not need

    raise typer.Exit(run(settings, fail=fail))


@suite_app.command("add")
def suite_add(
    name: Annotated[str, typer.Argument(help="Name of the new suite.")],
    files: Annotated[list[Path], typer.Argument(help="Clips: y4m, mp4, mkv, png, jpg.")],
    data: DataOption = None,
) -> None:
    """Make a suite of your own: every clip is decoded once, checked and copied."""
    from app.evaluator.clips import add_suite

    settings = settings_of(data=data)
    try:
        suite = add_suite(settings.data.absolute(), name, files)
    except (BitlaneError, OSError) as error:
        fail(str(error))
        raise typer.Exit(1) from None
    Console().print(f"suite {suite.name}: {len(suite.clips)} clips")


@suite_app.command("list")
def suite_list(data: DataOption = None) -> None:
    """Every suite with its clips."""
    from app.evaluator.clips import SuiteCatalogue

    catalogue = SuiteCatalogue(settings_of(data=data).data.absolute())
    table = Table("suite", "clip", "size", "frames", "fps", "format", "sha256")
    for suite in catalogue.suites():
        for clip in suite.clips:
            size = f"{clip.width}x{clip.height}"
            fps = f"{float(clip.fps):g}"
            table.add_row(suite.name, clip.name, size, str(clip.frames), fps, clip.pix_fmt, clip.sha256[:12])
    Console().print(table)
    for name, problem in catalogue.problems().items():
        fail(f"suite {name}: {problem}")


def run() -> None:
    app(prog_name="bitlane", args=sys.argv[1:])
