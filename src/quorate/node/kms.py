"""The KMS port: TLS, and a socket that all nodes of a machine share.

Here: listening and stopping. Not here: what a request means (`quorate.kms`).
"""

import errno
import socket
import ssl

from quorate.errors import BadInput, PortInUse
from quorate.host.http_server import HttpServer
from quorate.kms.app import KmsApp
from quorate.wire.links import Address, TlsFiles

_BACKLOG = 1024
_GRACE_SECONDS = 1
"""How long calls under way may take when the process stops."""


class KmsServer:
    """Listens from `start` to `stop`."""

    def __init__(self, app: KmsApp, tls: TlsFiles) -> None:
        """Raises `BadInput` when the files of `tls` cannot be used."""
        self._tls = tls
        self._context = _context(tls)
        self._server = HttpServer(
            app,
            grace=_GRACE_SECONDS,
            interface="asgi3",
            timeout_keep_alive=75,
            backlog=_BACKLOG,
            ssl_context_factory=lambda _config, _default: self._context,
        )

    @property
    def listening(self) -> bool:
        return self._server.listening

    async def start(self, address: Address) -> None:
        """Raises `PortInUse`, `BadInput`."""
        listener = _shared_socket(address)
        try:
            await self._server.start(listener)
        except OSError as why:
            raise BadInput(
                f"cannot listen on {address}: {why}", remedy="choose an address of this machine"
            ) from why

    def take_up_certificate(self) -> None:
        """New connections are shown the certificate that the files hold now. Raises `BadInput`."""
        self._tls.take_up(self._context)

    async def stop(self) -> None:
        """Stops listening; calls under way have a moment to end."""
        await self._server.stop()


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
    tls.take_up(context)
    return context
