"""HTTP/1.1 over one connection: a request out of bytes, its answer, and a bound on everything that a client may take.

Requests are not pipelined: what comes before an answer is complete is not read, and that answer ends the connection.
No SDK does it, and a request that a proxy overlooked at the end of another (request smuggling) is never run. What is
no HTTP/1.x, or can be read in two ways, is answered 400 and ends the connection too.

Here: framing (httptools parses), limits of time and size, which connection gives way when there are too many.
Not here: TLS, listening and half-open connections (`node/kms`, `wire/door`), and what a request means (`app`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from enum import Enum
from http import HTTPStatus
from typing import Protocol, cast

import httptools

from quorate.kms import errors
from quorate.kms.http import Header, Response, SignedRequest

HEAD_MAX = 32 * 1024
"""Bytes of a request's target, and the names and values of its header fields."""
FIELDS_MAX = 100
BODY_MAX = 128 * 1024
"""Bytes. The largest body within AWS's limits is ReEncrypt's: ten grant tokens (80 KiB), a ciphertext, two
contexts.
"""
HEAD_SECONDS = 10.0
"""From a request's first byte to the end of its head; for the first request, from the accepted connection."""
BODY_SECONDS = 10.0
"""From the end of a head to the end of its body."""
READ_SECONDS = 10.0
"""How long a client may leave more than `UNREAD_MAX` of an answer unread."""
UNREAD_MAX = 16 * 1024
"""Bytes that wait for one client, besides what TLS and the kernel hold."""
IDLE_SECONDS = 75.0
"""From an answer to the first byte of the next request; longer than SDKs keep an unused connection (60 s)."""
LINGER_SECONDS = 1.0
"""How long the rest of a request that is too large is thrown away, so that its sender gets to read the answer."""
CONNECTIONS_MAX = 512
"""Connections with a first request. With those that are half-open, a process with the usual 1,024 file descriptors has
some left for its files."""

_SWEEP_SECONDS = 0.5
"""How late a limit of time may be noticed."""
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = b"connection: close\r\n"

_log = logging.getLogger(__name__)


class Service(Protocol):
    """What stands behind the connections; answers everything, and raises nothing."""

    async def respond(self, request: SignedRequest) -> Response: ...

    async def refuse(self, request: SignedRequest, error: errors.KmsError) -> Response:
        """The answer to a request whose body was not read."""
        ...


class Connections:
    """The connections of one server. `now`: monotonic seconds."""

    def __init__(self, service: Service, now: Callable[[], float] = time.monotonic) -> None:
        self.service = service
        self.now = now
        self._all: set[Connection] = set()
        self._settled: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def make(self, settled: asyncio.Future[None]) -> Connection:
        """The protocol of a new connection; `settled` is done once its first head is complete."""
        return Connection(self, settled)

    def start(self) -> None:
        self._sweep()

    async def stop(self, grace: float) -> None:
        """Ends idle connections at once, the others with their answers, and what remains after `grace` seconds."""
        for connection in list(self._all):
            connection.finish()
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._all):
                connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def admits(self, connection: Connection) -> bool:
        """A first head is complete. Whether there is room; if need be another connection gives way."""
        if len(self._settled) >= CONNECTIONS_MAX:
            waiting = [other for other in self._settled if other.waits]
            if not waiting:
                return False
            min(waiting, key=lambda other: other.waits_since).abort()
        self._settled.add(connection)
        return True

    def came(self, connection: Connection) -> None:
        self._all.add(connection)
        self._empty.clear()

    def left(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._settled.discard(connection)
        if not self._all:
            self._empty.set()

    def _sweep(self) -> None:
        """One timer for all: a timer for each request would cost more than this."""
        now = self.now()
        for connection in [connection for connection in self._all if connection.deadline < now]:
            connection.expire()
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)


class _Phase(Enum):
    NOTHING = "nothing of a request is here"
    HEAD = "a part of its head"
    BODY = "its head"
    SERVED = "all of it, and it has no answer yet"
    OVER = "whatever comes is thrown away"


class _Stop(Exception):
    """Nothing more is to be parsed; from within the parser's callbacks."""


class Connection(asyncio.Protocol):
    """One client's. `deadline`: when it is cut off unless it goes on before, by the server's clock."""

    def __init__(self, server: Connections, settled: asyncio.Future[None]) -> None:
        self._server = server
        self._service = server.service
        self._settled = settled
        self._transport: asyncio.Transport
        self._parser: httptools.HttpRequestParser
        self._peer = ""
        self._phase = _Phase.NOTHING
        self._target = b""
        self._headers: list[Header] = []
        self._fields = 0
        self._head_bytes = 0
        self._unparsed = 0
        """Bytes of a part of the head that is not complete."""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._answering: asyncio.Task[None] | None = None
        self._last = False
        """The connection ends with the answer under way."""
        self._lingers = False
        self.deadline = math.inf  # the door bounds the time until it is settled
        self.waits_since = server.now()

    @property
    def waits(self) -> bool:
        """For its client."""
        return self._answering is None

    def finish(self) -> None:
        """Ends it: at once if nothing is under way, else with the answer."""
        self._last = True
        if self._answering is None:
            self._close()

    def expire(self) -> None:
        """Its deadline has passed."""
        if self._phase is _Phase.BODY:
            self._refuse(errors.too_slow(BODY_SECONDS))
        elif self._phase is _Phase.OVER and not self._transport.is_closing():
            self._close()
        else:
            self.abort()

    def abort(self) -> None:
        self._phase = _Phase.OVER
        self._transport.abort()

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNREAD_MAX)
        self._parser = httptools.HttpRequestParser(self)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self._server.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _Phase.OVER
        self._server.left(self)
        del self._parser  # it refers to this connection
        if not self._settled.done():
            self._settled.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.OVER:
            return
        if self._phase is _Phase.SERVED:
            self._last, self._phase = True, _Phase.OVER
            return
        before = self._head_bytes
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as why:
            if not isinstance(why.__context__, _Stop):
                self._fault(HTTPStatus.BAD_REQUEST)
        if self._phase is _Phase.HEAD and self._head_bytes == before:
            self._unparsed += len(data)
            if self._head_bytes + self._unparsed > HEAD_MAX:
                self._fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def pause_writing(self) -> None:
        self._transport.pause_reading()
        self.deadline = self._server.now() + READ_SECONDS

    def resume_writing(self) -> None:
        self._transport.resume_reading()
        if self._phase is not _Phase.OVER:  # else it ends when it was to end
            self.deadline = self._server.now() + IDLE_SECONDS

    # What the parser says.

    def on_message_begin(self) -> None:
        if self._phase is not _Phase.NOTHING:  # the next request, before this one's answer
            self._last, self._phase = True, _Phase.OVER
            raise _Stop
        self._phase = _Phase.HEAD
        self._target, self._headers, self._body = b"", [], []
        self._fields = self._head_bytes = self._unparsed = self._body_bytes = 0
        if self._settled.done():
            self.deadline = self._server.now() + HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not _Phase.HEAD:
            return  # a trailer is no part of what was signed (attack N70)
        self._fields += 1
        self._count(len(name) + len(value))
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if not self._settled.done():
            self._settled.set_result(None)
            if not self._server.admits(self):
                self._fault(HTTPStatus.SERVICE_UNAVAILABLE)
                raise _Stop
        if not self._target.isascii() or self._parser.get_method() == b"CONNECT":
            self._fault(HTTPStatus.BAD_REQUEST)
            raise _Stop
        self._phase = _Phase.BODY
        self.deadline = self._server.now() + BODY_SECONDS
        for name, value in self._headers:
            if name == b"content-length" and value.isdigit() and int(value[:12]) > BODY_MAX:
                self._refuse(errors.too_large(BODY_MAX))
                raise _Stop
            if name == b"expect" and value.lower() == b"100-continue":
                self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > BODY_MAX:
            self._refuse(errors.too_large(BODY_MAX))
            raise _Stop

    def on_message_complete(self) -> None:
        self._last = self._last or not self._parser.should_keep_alive()  # an upgrade ends the parsing, too
        request = self._request(b"".join(self._body))
        self._phase = _Phase.SERVED
        self._answer(self._service.respond(request))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        self._unparsed = 0
        if self._head_bytes > HEAD_MAX or self._fields > FIELDS_MAX:
            self._fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise _Stop

    # Answering.

    def _request(self, body: bytes) -> SignedRequest:
        method = self._parser.get_method().decode("ascii")
        return SignedRequest(method, self._target, tuple(self._headers), body, self._peer)

    def _answer(self, response: Coroutine[None, None, Response]) -> None:
        self.deadline = math.inf  # the service bounds its own time
        self._answering = asyncio.get_running_loop().create_task(self._write(response))

    def _refuse(self, error: errors.KmsError) -> None:
        """Answers a request whose body is not read any further."""
        request = self._request(b"")
        self._phase, self._last, self._lingers = _Phase.OVER, True, True
        self._answer(self._service.refuse(request, error))

    def _fault(self, status: HTTPStatus) -> None:
        """Answers what is no request, or none that is taken here, and ends the connection."""
        if self._answering is not None:  # a whole request before it has its answer
            self._last, self._phase = True, _Phase.OVER
            return
        self._phase = _Phase.OVER
        self._lingers = status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        self._send(Response(status.value, ((b"content-length", b"0"),), b""), last=True)
        self._end()

    async def _write(self, response: Coroutine[None, None, Response]) -> None:
        try:
            answer = await response
        except Exception as why:
            _log.error("serving a connection failed: %s", type(why).__name__)
            self.abort()
            return
        finally:
            self._answering = None
        self.waits_since = self._server.now()
        if self._transport.is_closing():
            return
        self.deadline = self.waits_since + IDLE_SECONDS
        self._send(answer, last=self._last)
        if self._last:
            self._end()
        else:
            self._phase = _Phase.NOTHING

    def _send(self, response: Response, *, last: bool) -> None:
        lines = [name + b": " + value + b"\r\n" for name, value in response.headers]
        end = _CLOSE if last else b""
        self._transport.write(b"".join((_STATUS_LINES[response.status], *lines, end, b"\r\n", response.body)))

    def _end(self) -> None:
        if self._lingers:
            self.deadline = self._server.now() + LINGER_SECONDS
        else:
            self._close()

    def _close(self) -> None:
        """Ends it once its client has read what was written, or the time for that is over."""
        self._phase = _Phase.OVER
        self.deadline = self._server.now() + READ_SECONDS
        self._transport.close()
