"""``bitlane show``: one job, and how it came to be as it is."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bitlane.http import DEFAULT_URL, JsonOption, KeyOption, UrlOption, get

_SHOWN = ("state", "experiment_id", "owner", "lane", "device_name", "attempt", "queue_position", "created_at")
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)))


def show(
    job_id: Annotated[str, typer.Argument(help="The job's id.")],
    events: Annotated[
        bool, typer.Option("--events", help="Every change of its state: when, who, which attempt.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """One job as it is, or with --events how it got there."""
    path = f"/jobs/{quote(job_id, safe='')}"
    found = get(f"{path}/events" if events else path, url=url, key=key)
    if as_json:
        Console().print_json(data=found)
    else:
        wide().print(_history(found["events"]) if events else _facts(found))


def _history(events: list[dict[str, Any]]) -> Table:
    table = Table("#", "at", "event", "state", "attempt", "actor", "reason")
    for name in (1, 2, 3):
        table.columns[name].no_wrap = True
    for event in events:
        row = (event["seq"], event["at"], event["event"], event["state"], event["attempt"], event["actor"])
        table.add_row(*(plain(value) for value in (*row, event["reason"])))
    return table


def _facts(job: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in ("id", *_SHOWN, "started_at", "finished_at"):
        table.add_row(name, plain(job[name]))
    if job["error"] is not None:
        table.add_row("error", plain(f"{job['error_type']} ({job['fault']}): {job['error']['message']}"))
    if job["delivery"] is not None:
        table.add_row("delivery", plain(job["delivery"]["state"]))
    return table


def wide() -> Console:
    """As wide as the terminal; where there is none (a pipe, a file) wide enough for every line."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def plain(value: Any) -> Text:
    """Text without what a terminal would obey: a submission's words are in it."""
    return Text("" if value is None else str(value).translate(_CONTROLS))
