"""The operator's switches on the lanes: pause, resume, drain."""

from __future__ import annotations

import asyncio

from app.domain.errors import NotFound
from app.domain.lanes import LaneMode
from app.engine.board import Board, LaneState
from app.ports import LaneModes


class Switches:
    def __init__(self, *, board: Board, modes: LaneModes) -> None:
        self._board = board
        self._modes = modes
        self._lock = asyncio.Lock()

    async def restore(self) -> None:
        """Have the lanes do what they were told before the service started."""
        for name, mode in (await self._modes.load()).items():
            if name in self._board.states:
                self._board.switch(name, mode)

    async def turn(self, lane: str, mode: LaneMode) -> LaneState:
        """Doing so twice changes nothing. Raises ``NotFound``, ``StoreUnavailable``."""
        if lane not in self._board.states:
            offered = ", ".join(self._board.states) or "none at all"
            raise NotFound(f"there is no lane {lane!r}; this service has: {offered}")
        async with self._lock:
            modes = {name: state.mode for name, state in self._board.states.items()} | {lane: mode}
            await self._modes.save({name: mode for name, mode in modes.items() if mode is not LaneMode.OPEN})
            self._board.switch(lane, mode)
        return self._board.states[lane]
