"""``bitlane keys``: who may call the service. The keys are in the data folder, and the service follows at once."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.adapters.clock import SystemClock
from app.adapters.keys import KeyFile
from app.cli_common import DataOption, JsonOption, fail, settings_of
from app.domain.access import MAX_WEIGHT, ApiKey, Client, Scope, new_key
from app.domain.errors import BitlaneError

app = typer.Typer(no_args_is_help=True, help="API keys: who may submit, read and administer.")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# Names that jobs without a key are kept under.
_TAKEN = frozenset({"local", "legacy", "nobody", "service"})

ScopeOption = Annotated[
    list[str] | None,
    typer.Option("--scope", "--scopes", help="submit, read, read:all, admin; repeat it, or separate by commas."),
]


@app.command("add")
def add(
    client: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: jobs belong to the name.")],
    scope: ScopeOption = None,
    expires: Annotated[str | None, typer.Option(help="When it ends: 30d, 12h, or a date (2027-01-31).")] = None,
    max_queued: Annotated[int | None, typer.Option(min=1, help="How many jobs of this client may wait.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="How many jobs it may submit in a minute.")] = None,
    weight: Annotated[int, typer.Option(min=1, max=MAX_WEIGHT, help="Its share of a busy lane beside others.")] = 1,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept. Without --scope it may submit and read."""
    now = SystemClock().now()
    try:
        key, token = new_key(
            Client(name=_name(client), weight=weight, max_queued=max_queued, per_minute=per_minute),
            _scopes(scope or ["submit,read"]),
            now=now,
            expires_at=None if expires is None else _end(expires, now),
            randomness=secrets.token_bytes,
        )
        _file(data).add(key)
    except (BitlaneError, ValueError) as error:
        fail(str(error))
        raise typer.Exit(1) from None
    if as_json:
        Console().print_json(data={**_view(key), "key": token})
        return
    Console(stderr=True).print(f"key {key.id} of {key.client.name}; keep it, it is shown only now:", highlight=False)
    typer.echo(token)


@app.command("list")
def list_keys(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Every key, also those that are not taken any more."""
    try:
        keys = sorted(_file(data).all().values(), key=lambda key: key.created_at)
    except BitlaneError as error:
        fail(str(error))
        raise typer.Exit(1) from None
    if as_json:
        Console().print_json(data=[_view(key) for key in keys])
        return
    table = Table("id", "client", "scopes", "state", "expires")
    table.columns[0].no_wrap = True
    for key in keys:
        view = _view(key)
        table.add_row(key.id, key.client.name, ", ".join(view["scopes"]), view["state"], view["expires_at"] or "never")
    Console().print(table)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `list` shows it, or the key itself.")],
    data: DataOption = None,
) -> None:
    """Refuse a key from now on. Its client's jobs stay."""
    if key_id.startswith("bl_"):
        key_id = key_id.split("_")[1]
    try:
        key = _file(data).revoke(key_id, SystemClock().now())
    except BitlaneError as error:
        fail(str(error))
        raise typer.Exit(1) from None
    Console().print(f"key {key.id} of {key.client.name} is revoked", highlight=False)


def _file(data: Path | None) -> KeyFile:
    return KeyFile(settings_of(data=data).data.absolute())


def _name(client: str) -> str:
    if not _NAME.fullmatch(client) or client in _TAKEN:
        raise ValueError(f"{client!r} cannot be a client's name: use up to 64 letters, digits and _.:-")
    return client


def _scopes(given: Sequence[str]) -> frozenset[Scope]:
    names = [name.strip() for item in given for name in item.split(",") if name.strip()]
    for name in names:
        if name not in set(Scope):
            raise ValueError(f"there is no scope {name!r}; there are: {', '.join(Scope)}")
    if not names:
        raise ValueError("a key needs at least one scope")
    return frozenset(map(Scope, names))


def _end(text: str, now: float) -> float:
    """The time that ``30d`` or a date means."""
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        return now + float(span[1]) * _UNIT_S[span[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a span (30d, 12h) nor a date (2027-01-31)") from None
    end = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if end <= now:
        raise ValueError(f"{text!r} is over already")
    return end


def _view(key: ApiKey) -> dict[str, Any]:
    refusal = key.refusal(SystemClock().now())
    return {
        "id": key.id,
        "client": key.client.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "state": {None: "active", "this key was revoked": "revoked"}.get(refusal, "expired"),
        "created_at": _time(key.created_at),
        "expires_at": _time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
        "max_queued": key.client.max_queued,
        "per_minute": key.client.per_minute,
        "weight": key.client.weight,
    }


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
