"""The one place that knows the WebSocket library (picows on uvloop).

Here: how its connections are made, with our limits. Chosen by measurement: an echo of 2
KiB costs half of what the `websockets` library takes and no more than bare TLS; the price is that listeners
need its protocol class, which it does not document, because its own listener cannot bound unfinished
handshakes (see `door`).
Not here: what travels.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from picows import WSAutoPingStrategy, WSListener, WSUpgradeRequest, ws_connect
from picows.picows import WSProtocol  # type: ignore[attr-defined]

TLS_SHUTDOWN_SECONDS = 1.0

_log = logging.getLogger("quorate.wire.websocket")
_log.setLevel(
    logging.ERROR
)  # the library reports each connection; who connects is told by `links` and `enrol`


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is: a host name or IP address, and a TCP port."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.host or not 1 <= self.port <= 65535:
            raise ValueError(f"an address is HOST:PORT with a port of 1 to 65535, got {self}")

    @classmethod
    def parse(cls, text: str) -> "Address":
        """From `host:port`, or `[v6]:port`. Raises `ValueError`."""
        host, colon, port = text.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()):
            raise ValueError(f"an address is HOST:PORT, got {text[:200]!r}")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A ping after `idle` seconds without data; no answer within `reply` (≤ idle) seconds ends the
    connection.
    """

    idle: float
    reply: float


def accept_protocol(
    listeners: Mapping[str, Callable[[], WSListener]],
    *,
    max_message: int,
    seconds: float,
    keepalive: Keepalive | None,
) -> asyncio.BaseProtocol:
    """The protocol of one accepted connection; `listener()` is made when the client asks for `path`, else
    404.
    """

    def route(request: WSUpgradeRequest) -> WSListener | None:
        make = listeners.get(request.path.decode("ascii", "replace"))
        return make() if make else None

    ping = keepalive or Keepalive(0, 0)
    protocol = WSProtocol(
        None,  # host and port: a client's
        None,  # path: a client's
        False,  # not a client
        route,
        _log,
        True,  # a listener that raises ends its connection
        seconds,
        keepalive is not None,
        ping.idle,
        ping.reply,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        True,  # answer pings
        max_message,
        None,  # no more headers
        16 * 1024,  # first size of the read buffer
    )
    return cast(asyncio.BaseProtocol, protocol)


async def connect(
    address: Address,
    path: str,
    context: ssl.SSLContext,
    listener: WSListener,
    *,
    max_message: int,
    seconds: float,
    keepalive: Keepalive | None,
) -> None:
    """Opens one connection for `listener`. Raises `OSError`, `TimeoutError` or `picows.WSError`."""
    ping = keepalive or Keepalive(0, 0)
    async with asyncio.timeout(seconds):
        await ws_connect(
            lambda _request, _response: listener,
            f"wss://{address}{path}",
            ssl_context=context,
            websocket_handshake_timeout=seconds,
            logger_name=_log,
            enable_auto_ping=keepalive is not None,
            auto_ping_idle_timeout=ping.idle,
            auto_ping_reply_timeout=ping.reply,
            max_frame_size=max_message,
            max_redirects=0,
            use_aiofastnet=False,  # it reaches into OpenSSL behind Python's back for a tenth of the time
            ssl_handshake_timeout=seconds,
            ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
        )
