"""The KMS port: TLS, and a socket that all nodes of a machine share.

Here: listening and stopping. Not here: HTTP, and what a request means (`quorate.kms`).
"""

import errno
import logging
import socket
import ssl

from quorate.errors import BadInput, PortInUse
from quorate.kms.app import KmsApp
from quorate.kms.connection import HEAD_SECONDS, READ_SECONDS, Connections
from quorate.wire.door import Door
from quorate.wire.links import Address, TlsFiles

_HALF_OPEN = 256
"""Connections before their first complete head; the oldest gives way."""

_GRACE_SECONDS = 1.0
"""How long calls under way may take when the process stops."""


_log = logging.getLogger(__name__)


class KmsServer:
    """Listens from `start` to `stop`; can be started again."""

    def __init__(self, app: KmsApp, tls: TlsFiles) -> None:
        """Raises `BadInput` when the files of `tls` cannot be used."""
        self._tls = tls
        self._context = _context(tls)
        self._connections = Connections(app)
        self._door: Door | None = None

    @property
    def listening(self) -> bool:
        return self._door is not None

    async def start(self, address: Address) -> None:
        """Raises `PortInUse`, `BadInput`."""
        door = Door(
            self._context,
            self._connections.make,
            half_open=_HALF_OPEN,
            seconds=HEAD_SECONDS,
            on_refused=lambda why: _log.debug("a connection ended early: %s", why),
        )
        door.listen(_shared_socket(address))
        self._door = door
        self._connections.start()

    def take_up_certificate(self) -> None:
        """New connections are shown the certificate that the files hold now. Raises `BadInput`."""
        self._tls.take_up(self._context)

    async def stop(self) -> None:
        """Stops listening; calls under way have a moment to end."""
        if self._door is None:
            return
        door, self._door = self._door, None
        await door.close()
        await self._connections.stop(_GRACE_SECONDS)


def _shared_socket(address: Address) -> socket.socket:
    """Bound with SO_REUSEPORT: the kernel spreads connections over the nodes that listen."""
    listener = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections inherit it: the kernel, too, gives up on a client that takes nothing of what it holds for it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_SECONDS * 1000))
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
