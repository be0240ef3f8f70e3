"""An ASGI application behind one listening socket, within a process that has other things to do.

Here: starting and stopping uvicorn (on httptools), and its settings.
Not here: which socket, which application.
"""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any

import uvicorn


class HttpServer:
    """Listens from `start` to `stop`; can be started again."""

    def __init__(self, app: Any, *, grace: int) -> None:
        """`grace`: seconds that calls under way may take when it stops."""
        self._app = app
        self._grace = grace
        self._server: _Server | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def listening(self) -> bool:
        return self._server is not None and self._server.started and not self._server.should_exit

    async def start(self, listener: socket.socket) -> None:
        """Returns once it serves on `listener`, which is bound. Raises `OSError`."""
        config = uvicorn.Config(
            self._app,
            http="httptools",
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=self._grace,
        )
        self._server = _Server(config)
        self._running = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))
        up = asyncio.get_running_loop().create_task(self._server.up.wait())
        await asyncio.wait([up, self._running], return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            await self._running
            raise OSError("the HTTP server ended before it served")

    async def stop(self) -> None:
        """Stops listening; calls under way have their grace to end."""
        if self._server is None or self._running is None:
            return
        self._server.should_exit = True
        await self._running
        self._server = self._running = None


class _Server(uvicorn.Server):
    """Leaves signals to the process, and tells when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
