"""An ASGI application behind one listening socket, within a process that has other things to do; what its clients
may take is bounded.

Here: uvicorn's HTTP/1.1 connection (on httptools) with limits of its own, how many there may be, starting and
stopping. A connection counts as half-open until the header of its first request is complete (`wire.door`); after
that it is one of `CONNECTIONS`, and the one that has waited longest for its client gives way.
Not here: which socket, which application, how long a body may take (the application reads it).

Requests are not pipelined: what comes before an answer is complete is not read, and that answer ends the
connection. No SDK does it, and a request that a proxy overlooked at the end of another (request smuggling) is
never run.
"""

import asyncio
import contextlib
import logging
import math
import socket
import ssl
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NoReturn

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from quorate.wire.door import Door

FIRST_HEADER_SECONDS = 10.0
"""From the accepted connection to the end of the first request's header, with the TLS handshake in it."""
HEADER_SECONDS = 10.0
"""From the first byte of a later request to the end of its header."""
IDLE_SECONDS = 75.0
"""From an answer to the first byte of the next request; longer than SDKs keep an unused connection (60 s)."""
WRITE_SECONDS = 10.0
"""How long a client may leave more than `WRITE_BYTES` of its answers unread."""
WRITE_BYTES = 16 * 1024
"""Answers that wait for one client, besides the 64 KiB that uvloop's transport takes, and what the kernel holds."""
HEADER_BYTES = 32 * 1024
"""A request's target, and the names and values of its header fields."""
HEADER_FIELDS = 100
HALF_OPEN = 256
"""Connections before their first complete header; the oldest gives way."""
CONNECTIONS = 512
"""Connections after it. The sum leaves a process with the usual 1,024 file descriptors some for its files."""

_SWEEP_SECONDS = 1.0
"""How late a limit of time may be noticed."""

_log = logging.getLogger(__name__)


class HttpServer:
    """Listens from `start` to `stop`; can be started again."""

    def __init__(
        self,
        app: Any,
        *,
        grace: float,
        tls: ssl.SSLContext | None = None,
        connections: int = CONNECTIONS,
        **settings: Any,
    ) -> None:
        """`grace`: seconds that calls under way may take when it stops. `settings`: further ones of uvicorn's."""
        self._app = app
        self._grace = grace
        self._tls = tls
        self._connections = connections
        self._config = uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(IDLE_SECONDS),
            **settings,
        )
        self._config.load()
        self._state = ServerState()
        self._waiting: dict[_Connection, None] = {}  # longest first
        self._busy: set[_Connection] = set()
        self._left = asyncio.Event()
        self._door: Door | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def listening(self) -> bool:
        return self._door is not None

    async def start(self, listener: socket.socket) -> None:
        """Returns once it serves on `listener`, which is bound. Raises `OSError`."""
        door = Door(
            self._tls,
            lambda settled: _Connection(self, self._config, self._state, settled),
            half_open=HALF_OPEN,
            seconds=FIRST_HEADER_SECONDS,
            on_refused=lambda why: _log.debug("a connection ended early: %s", why),
        )
        door.listen(listener)
        self._door = door
        self._sweep()

    async def stop(self) -> None:
        """Stops listening; calls under way have their grace to end."""
        if self._door is None:
            return
        door, self._door = self._door, None
        await door.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while self._state.connections:
                    self._left.clear()
                    await self._left.wait()
        for task in self._state.tasks:
            task.cancel()
        for connection in self._waiting.keys() | self._busy:
            connection.cut()
        if self._sweeper is not None:
            self._sweeper.cancel()

    # What connections tell.

    def admits(self, connection: "_Connection") -> bool:
        """A header is complete. Whether there is room for the connection, if need be another's."""
        if connection in self._waiting:
            return True
        if len(self._waiting) + len(self._busy) >= self._connections:
            if not self._waiting:
                return False
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cut()
        self.waits(connection)
        return True

    def waits(self, connection: "_Connection") -> None:
        """For its client: for a request, the rest of one, or to be read."""
        self._busy.discard(connection)
        self._waiting[connection] = None

    def works(self, connection: "_Connection") -> None:
        self._waiting.pop(connection, None)
        self._busy.add(connection)

    def left(self, connection: "_Connection") -> None:
        self._busy.discard(connection)
        self._waiting.pop(connection, None)
        self._left.set()

    def _sweep(self) -> None:
        """Cuts off who took too long. One timer for all: a timer for each request would cost more than this."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in self._waiting.keys() | self._busy:
            if connection.overdue(now):
                connection.cut()
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep)


class _Refused(Exception):
    """Of bytes that are not read on, from within the parser's callbacks."""


class _Connection(HttpToolsProtocol):
    """One client. Where the next byte belongs: to no request, to a header, or to a body."""

    def __init__(
        self, server: HttpServer, config: uvicorn.Config, state: ServerState, settled: "asyncio.Future[None]"
    ) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self._http = server
        self._settled = settled
        self._in_header = False
        self._in_body = False
        self._over = False  # nothing more is read
        self._status = HTTPStatus.BAD_REQUEST  # of a refusal
        self._fields = 0
        self._size = 0  # bytes of the header's complete parts
        self._unparsed = 0  # bytes of one that is not
        self._header_end = math.inf
        self._write_end = math.inf

    def overdue(self, now: float) -> bool:
        return now > self._header_end or now > self._write_end

    def cut(self) -> None:
        self.transport.abort()

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if not self._settled.done():
            self._settled.set_result(None)
        self._http.left(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_end = self.loop.time() + WRITE_SECONDS
        self._http.waits(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_end = math.inf
        if self._serving and not self._in_body:
            self._http.works(self)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._unset_keepalive_if_required()
        if not self._in_header and not self._in_body:
            self._in_header = True
            self._header_end = self.loop.time() + HEADER_SECONDS
        before = self._size
        try:
            self.parser.feed_data(data)
            if self._in_header and self._size == before:
                self._unparsed += len(data)
                if self._size + self._unparsed > HEADER_BYTES:
                    self._too_large()
        except httptools.HttpParserUpgrade:  # a request like any other, and the last: we speak nothing else
            self._end()
        except (httptools.HttpParserError, _Refused):
            self._refuse()

    def _refuse(self) -> None:
        """Answers with an error, unless a whole request is under way: what came after that is only not read."""
        if self._serving and self._in_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif self._serving:
            self._end()
            return
        self._over = True
        if not self._serving or not self.cycle.response_started:
            phrase = f"{self._status.phrase}\n".encode()
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
                % (self._status, phrase[:-1], len(phrase), phrase)
            )
        self.transport.close()

    def _end(self) -> None:
        """The request under way is the last."""
        self._over = True
        if self._serving:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    @property
    def _serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # What the parser finds.

    def on_message_begin(self) -> None:
        if self._serving:
            raise _Refused
        self._fields = self._size = self._unparsed = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._size += len(url)
        self._unparsed = 0
        if self._size > HEADER_BYTES:
            self._too_large()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._size += len(name) + len(value)
        self._unparsed = 0
        if self._fields > HEADER_FIELDS or self._size > HEADER_BYTES:
            self._too_large()
        if not self._in_body:  # a trailer is no part of what was signed
            super().on_header(name, value)

    def _too_large(self) -> NoReturn:
        self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise _Refused

    def on_headers_complete(self) -> None:
        if not self._http.admits(self):
            self._status = HTTPStatus.SERVICE_UNAVAILABLE
            raise _Refused
        if not self._settled.done():
            self._settled.set_result(None)
        self._in_header, self._in_body, self._header_end = False, True, math.inf
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._serving:
            self._http.works(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._in_body:  # answered without it
            self._end()
        else:
            self._http.waits(self)
