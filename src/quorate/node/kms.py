"""The KMS port: TLS, and a socket that all nodes of a machine share.

Here: listening and stopping. Not here: HTTP, and what a request means (`quorate.kms`).
"""

import asyncio
import errno
import socket
import ssl
from typing import Any

import aiofastnet

from quorate.errors import BadInput, PortInUse
from quorate.kms.app import KmsApp
from quorate.kms.connection import Connections
from quorate.wire.links import Address, TlsFiles

_BACKLOG = 1024
_GRACE_SECONDS = 1.0
"""How long calls under way may take when the process stops."""

_HANDSHAKE_SECONDS = 10.0
_SHUTDOWN_SECONDS = 2.0


class KmsServer:
    """Listens from `start` to `stop`; can be started again."""

    def __init__(self, app: KmsApp, tls: TlsFiles) -> None:
        self._tls = tls
        self._connections = Connections(app)
        self._server: asyncio.Server | None = None

    @property
    def listening(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def start(self, address: Address) -> None:
        """Raises `PortInUse`, `BadInput`."""
        asyncio.get_running_loop().set_exception_handler(_tell)
        listener = _shared_socket(address)
        try:
            # Its TLS takes half of uvloop's time for each request.
            self._server = await aiofastnet.create_server(
                asyncio.get_running_loop(),
                self._connections,
                sock=listener,
                backlog=_BACKLOG,
                ssl=_context(self._tls),
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except OSError as why:
            listener.close()
            raise BadInput(
                f"cannot listen on {address}: {why}", remedy="choose an address of this machine"
            ) from why
        self._connections.start()

    async def stop(self) -> None:
        """Stops listening; calls under way have a moment to end."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        await self._connections.stop(_GRACE_SECONDS)


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the loop tells of, but clients that left before their handshake: anybody can do that, as often as they like.

    aiofastnet (1.2) tells of each, and by a class in an exception's place, at which `logging` fails: sixty lines.
    """
    if context.get("exception") is not ConnectionResetError:
        loop.default_exception_handler(context)


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
