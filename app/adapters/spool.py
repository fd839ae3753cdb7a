"""The spool as files: ``<job id>.<attempt>.json`` in one folder."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from app.adapters.files import refusal, sweep, sync_folder, write_whole
from app.domain.errors import StoreUnavailable
from app.domain.lifecycle import Broke, Finished, Released, Stopped
from app.ports import Spooled, Spoolful

DAMAGED = ".damaged"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: Literal[1] = 1
    job_id: str


class _Finished(_Record):
    kind: Literal["Finished"] = "Finished"
    event: Finished


class _Broke(_Record):
    kind: Literal["Broke"] = "Broke"
    event: Broke


class _Released(_Record):
    kind: Literal["Released"] = "Released"
    event: Released


class _Stopped(_Record):
    kind: Literal["Stopped"] = "Stopped"
    event: Stopped


_Any: TypeAlias = _Finished | _Broke | _Released | _Stopped
_RECORD: TypeAdapter[_Any] = TypeAdapter(Annotated[_Any, Field(discriminator="kind")])
_KINDS = {Finished: _Finished, Broke: _Broke, Released: _Released, Stopped: _Stopped}


class FileSpool:
    """The port ``Spool``. The folder is made on the first put."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def put(self, spooled: Spooled) -> None:
        await asyncio.to_thread(self._put, spooled)

    async def all(self) -> Spoolful:
        return await asyncio.to_thread(self._all)

    async def remove(self, job_id: str, attempt: int) -> None:
        await asyncio.to_thread(self._remove, self._path(job_id, attempt))

    def _path(self, job_id: str, attempt: int) -> Path:
        return self.root / f"{job_id}.{attempt}.json"

    def _put(self, spooled: Spooled) -> None:
        event = spooled.event
        try:
            text = _RECORD.dump_json(_KINDS[type(event)](job_id=spooled.job_id, event=event))
        except PydanticSerializationError as error:
            raise StoreUnavailable(f"the end of job {spooled.job_id} cannot be written down: {error}") from error
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(spooled.job_id, event.attempt), text, self.root / "tmp")
            sync_folder(self.root)
            sync_folder(self.root.parent)
        except OSError as error:
            raise refusal(error, f"{self.root} takes no result") from error

    def _all(self) -> Spoolful:
        entries: list[Spooled] = []
        try:
            sweep(self.root / "tmp")
            for path in sorted(self.root.glob("*.json")):
                spooled = _read(path)
                if spooled is None or self._path(spooled.job_id, spooled.event.attempt) != path:
                    os.replace(path, path.with_name(path.name + DAMAGED))
                else:
                    entries.append(spooled)
            damaged = tuple(sorted(path.name for path in self.root.glob(f"*{DAMAGED}")))
        except OSError as error:
            raise refusal(error, f"{self.root} cannot be read") from error
        return Spoolful(entries=tuple(entries), damaged=damaged)

    def _remove(self, path: Path) -> None:
        try:
            with suppress(FileNotFoundError):
                path.unlink()
                sync_folder(self.root)
        except OSError as error:
            raise refusal(error, f"{path} cannot be removed") from error


def _read(path: Path) -> Spooled | None:
    """None for what a put of ours did not write, or what the disk does not give back."""
    try:
        record = _RECORD.validate_json(path.read_bytes())
    except (ValidationError, OSError):
        return None
    return Spooled(job_id=record.job_id, event=record.event)
