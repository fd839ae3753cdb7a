"""What operators have the lanes do, in ``lanes.json`` under the data folder."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.adapters.files import replace_whole
from app.domain.errors import StoreUnavailable
from app.domain.lanes import LaneMode

FILE_NAME = "lanes.json"

_MODES = TypeAdapter(dict[str, LaneMode])


class LaneModeFile:
    """The port ``LaneModes``."""

    def __init__(self, data: Path) -> None:
        self.path = data / FILE_NAME

    async def load(self) -> dict[str, LaneMode]:
        """Raises ``StoreUnavailable`` for a file that is not one of these."""
        try:
            return _MODES.validate_json(await asyncio.to_thread(self.path.read_bytes))
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise StoreUnavailable(f"{self.path} cannot be read: remove it to have every lane open") from error

    async def save(self, modes: Mapping[str, LaneMode]) -> None:
        await asyncio.to_thread(replace_whole, self.path, _MODES.dump_json(dict(modes)))
