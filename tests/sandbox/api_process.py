"""Stands for the API process in a test that kills it: starts an executor and runs a job that does not end."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from app.adapters.executors.local import LocalExecutor
from app.domain.lanes import Lane
from tests.sandbox.works import work


async def main(data_dir: str, mark: str) -> None:
    executor = LocalExecutor(lane=Lane(name="cpu", device="cpu"), slot=0, data_dir=Path(data_dir))
    await executor.warm()
    name_itself = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\n"
    code = name_itself + "time.sleep(60)\ndef encode(f, c): ...\n"
    await executor.run(work(encoder=code), lambda progress: None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
