"""Whether the disk has room for another job: what is kept free is for the results of those that were accepted."""

from __future__ import annotations

from app.domain.errors import DiskFull, StoreUnavailable
from app.ports import Clock, Disk, Space

FRESH_S = 1.0
MIB = 1024 * 1024


class Room:
    """Below ``reserve_bytes`` of free space nothing is accepted; below ``warn_bytes`` the operator is warned."""

    def __init__(self, disk: Disk, clock: Clock, *, reserve_bytes: int, warn_bytes: int) -> None:
        self._disk = disk
        self._clock = clock
        self._reserve_bytes = reserve_bytes
        self._warn_bytes = warn_bytes
        self._seen: tuple[float, Space] | None = None

    async def space(self) -> Space:
        """As it was at most a second ago. Raises ``StoreUnavailable``."""
        now = self._clock.monotonic()
        if self._seen is None or not 0 <= now - self._seen[0] < FRESH_S:
            self._seen = now, await self._disk.space()
        return self._seen[1]

    async def check(self) -> None:
        """Raises ``DiskFull``."""
        space = await self.space()
        if space.free_bytes < self._reserve_bytes:
            raise DiskFull(
                f"the disk under the data folder has {space.free_bytes / MIB:.1f} MiB free;"
                f" the last {self._reserve_bytes / MIB:.1f} MiB are kept for results"
            )

    async def warning(self) -> str | None:
        """What an operator should know of the disk, None if it has room."""
        try:
            await self.check()
            space = await self.space()
        except StoreUnavailable as error:
            return str(error)
        if space.free_bytes < self._warn_bytes:
            return f"{space.free_bytes / MIB:.1f} MiB free, less than {self._warn_bytes / MIB:.1f} MiB"
        return None
