"""README's table of settings says what the service has: names, options, defaults and meanings."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from app import cli
from app.settings import Settings

README = Path(__file__).parents[1] / "README.md"
HEAD = ["Setting", "Option", "Default", "Meaning"]


def shown(default: Any) -> str:
    """A default as a reader would write it into the environment; empty for none."""
    if default in (None, "", [], {}):
        return ""
    if isinstance(default, bool):
        return "`1`" if default else "`0`"
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{json.dumps(default) if isinstance(default, dict) else default}`"


def rows_of_settings() -> list[list[str]]:
    options = inspect.signature(cli.serve).parameters
    return [
        [
            f"`BITLANE_{name.upper()}`",
            f"`--{name.replace('_', '-')}`" if name in options else "",
            shown(field.get_default(call_default_factory=True)),
            str(field.description),
        ]
        for name, field in Settings.model_fields.items()
    ]


def table_in(text: str) -> list[list[str]]:
    """The rows of the table whose head is ``HEAD``."""
    lines = iter(text.splitlines())
    for line in lines:
        if cells(line) == HEAD:
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []


def test_readme_lists_every_setting_as_it_is() -> None:
    wanted = rows_of_settings()
    assert len(wanted) > 15
    assert table_in(README.read_text()) == wanted, "README's table should be:\n" + "\n".join(
        f"| {' | '.join(row)} |" for row in (HEAD, ["---"] * 4, *wanted)
    )
