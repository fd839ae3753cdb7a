"""What the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from app.settings import Settings

DataOption = Annotated[Path | None, typer.Option(help="Folder for everything that is kept. [default: .bitlane]")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings_of(**options: Any) -> Settings:
    """Settings from the environment, overridden by the options that were given."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            message = str(item["msg"]).removeprefix("Value error, ")
            fail(f"{where}: {message}" if where else message)
        raise typer.Exit(2) from None


def fail(message: str) -> None:
    Console(stderr=True).print(f"bitlane: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
