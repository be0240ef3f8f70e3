"""The KMS port: TLS, a socket that all nodes of a machine share, and the ASGI server (uvicorn on httptools).

Here: listening and stopping. Not here: what a request means (`quorate.kms`).
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Generator

import uvicorn

from quorate.errors import BadInput, PortInUse
from quorate.kms.app import KmsApp
from quorate.wire.links import Address, TlsFiles

_log = logging.getLogger(__name__)

_BACKLOG = 1024
_GRACE_SECONDS = 1
"""How long calls under way may take when the process stops."""


class KmsServer:
    """Listens from `start` to `stop`."""

    def __init__(self, app: KmsApp, tls: TlsFiles) -> None:
        self._app = app
        self._tls = tls
        self._server: _Server | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def listening(self) -> bool:
        return self._server is not None and self._server.started and not self._server.should_exit

    async def start(self, address: Address) -> None:
        """Raises `PortInUse`, `BadInput`."""
        listener = _shared_socket(address)
        config = uvicorn.Config(
            self._app,
            http="httptools",
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            backlog=_BACKLOG,
            ssl_context_factory=lambda _config, _default: _context(self._tls),
        )
        self._server = _Server(config)
        self._running = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._running.done():
                await self._running
                raise BadInput(f"cannot listen on {address}", remedy="choose an address of this machine")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Stops listening; calls under way have a moment to end."""
        if self._server is None or self._running is None:
            return
        self._server.should_exit = True
        await self._running
        self._server = self._running = None


class _Server(uvicorn.Server):
    """Leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _shared_socket(address: Address) -> socket.socket:
    """Bound with SO_REUSEPORT: the kernel spreads connections over the nodes that listen."""
    listener = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address.host, address.port))
        listener.setblocking(False)
    except OSError as why:
        listener.close()
        if why.errno == errno.EADDRINUSE:
            raise PortInUse(address.host, address.port) from why
        raise BadInput(
            f"cannot listen on {address}: {why.strerror or why}", remedy="choose an address of this machine"
        ) from why
    return listener


def _context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(tls.cert_chain, tls.key)
    return context
