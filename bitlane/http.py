"""How the commands reach a service: its address, the key, and every problem as one sentence."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

UrlOption = Annotated[str, typer.Option(envvar="BITLANE_URL", help="Where the service is.")]
KeyOption = Annotated[
    str | None, typer.Option(envvar=["BITLANE_KEY", "BITLANE_API_KEY"], help="An API key.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 30.0


def get(path: str, *, url: str, key: str | None) -> Any:
    """The JSON at the path. Ends the command with 1 and one sentence if there is none."""
    headers = {"accept": "application/json"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    try:
        answer = httpx.get(f"{url.rstrip('/')}{path}", headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _failed(f"{url} does not answer: {error}") from None
    try:
        content = answer.json()
    except ValueError:
        raise _failed(f"{url} is not a Bitlane service: it answered {answer.status_code} without JSON") from None
    if answer.is_success:
        return content
    told = content.get("detail", answer.reason_phrase) if isinstance(content, dict) else answer.reason_phrase
    raise _failed(str(told))


def _failed(message: str) -> typer.Exit:
    Console(stderr=True).print(f"bitlane: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(1)
