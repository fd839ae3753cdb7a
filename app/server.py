"""The web server around the application: one process, one event loop, stopped by SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.connection import PatientProtocol
from app.domain.errors import PlatformError
from app.engine.service import Service
from app.main import create_app
from app.settings import Settings

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
IDLE_CONNECTION_S = 75
MAX_CONNECTIONS = 4096
STOP_WITHIN_S = 10


class _Server(uvicorn.Server):
    """Answers until the service's grace period is over: whoever asks meanwhile hears that it stops, and how jobs are.

    The first signal begins the grace period, a second one ends it.
    """

    _draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        api = getattr(self.config.app.state, "api", None)
        if api is None or self.should_exit:
            super().handle_exit(sig, frame)
        else:
            asyncio.get_running_loop().call_soon_threadsafe(self._stop, api.service, sig)

    def _stop(self, service: Service, sig: int) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(service, sig))
        else:
            service.hurry()

    async def _drain(self, service: Service, sig: int) -> None:
        try:
            await service.drain()
        finally:
            super().handle_exit(sig, None)


def run(settings: Settings, *, fail: Callable[[str], None]) -> int:
    """Serve until told to stop; returns the process' exit code."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}")
        return 1
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    fatal: list[BaseException] = []

    def stop(error: BaseException) -> None:
        fatal.append(error)
        server.should_exit = True

    try:
        app = create_app(settings, on_fatal=stop)
    except PlatformError as error:
        listener.close()
        fail(str(error))
        return 1
    server = _Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=PatientProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=IDLE_CONNECTION_S,
            timeout_graceful_shutdown=STOP_WITHIN_S,
        )
    )
    # What stops the service is told in one sentence; the server would add a traceback that says no more.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not (fatal and "Traceback" in record.getMessage()))
    # The server raises the signal that stopped it once more when it is done; a stop that went well is no failure.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    with contextlib.closing(listener), contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets=[listener])
    for reason in fatal:
        fail(f"the service had to stop: {reason}")
    return 1 if fatal or not server.started else 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
