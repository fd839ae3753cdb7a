"""How much room the data folder's file system has."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from app.adapters.files import refusal
from app.ports import Space


class FolderDisk:
    """The port ``Disk`` for the file system that holds ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def space(self) -> Space:
        try:
            seen = await asyncio.to_thread(os.statvfs, self._folder)
        except OSError as error:
            raise refusal(error, f"{self._folder} cannot be looked at") from error
        return Space(free_bytes=seen.f_bavail * seen.f_frsize, total_bytes=seen.f_blocks * seen.f_frsize)
