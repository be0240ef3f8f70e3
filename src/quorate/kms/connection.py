"""HTTP/1.1 over one connection: requests out of bytes, answers in their order, and a bound on every wait.

One request of a connection is served at a time. Whoever sends the next one early (pipelining) gets its answer
after the first one's; meanwhile nothing more is read. A client that is slow with a head, with a body or with
reading answers, or silent, is cut off; when there are too many connections the one that was idle longest makes
room. What is no HTTP/1.x is answered 400, if at all, and the connection ends.

Here: connections, their limits, framing (httptools parses). Not here: TLS and listening (`node/kms`), and what a
request means (`app`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from typing import Protocol, cast

import httptools

from quorate.kms import errors
from quorate.kms.http import Header, Response, SignedRequest

HEAD_MAX = 32 * 1024
"""Bytes of a request's line and headers together."""

BODY_MAX = 128 * 1024
"""Bytes. The largest body within AWS's limits is ReEncrypt's: ten grant tokens (80 KiB), a ciphertext, two
contexts.
"""

HEAD_SECONDS = 10.0
"""From a request's first byte to the end of its head."""

BODY_SECONDS = 10.0
"""From the end of a head to the end of its body."""

READ_SECONDS = 10.0
"""How long a client may leave an answer unread."""

IDLE_SECONDS = 75.0
"""How long a connection may stay without a request, from its start and after each answer."""

LINGER_SECONDS = 1.0
"""How long what follows a refused request is thrown away, so that its sender gets to read the answer."""

CONNECTIONS_MAX = 1000
"""Connections of one server at a time."""

_SWEEP_SECONDS = 0.5
_NEVER = math.inf
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
    """The connections of one server; makes a protocol for each. `now`: monotonic seconds."""

    def __init__(self, service: Service, now: Callable[[], float] = time.monotonic) -> None:
        self.service = service
        self.now = now
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def __call__(self) -> Connection:
        return Connection(self)

    def start(self) -> None:
        self._sweep()

    async def stop(self, grace: float) -> None:
        """Ends idle connections at once, the others with their answers, and what remains after `grace` seconds."""
        for connection in list(self._open):
            connection.finish()
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._open):
                connection.abort("the server stops")
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def add(self, connection: Connection) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            idle = [other for other in self._open if other.idle]
            if not idle:
                connection.abort("too many connections are busy")
                return
            min(idle, key=lambda other: other.deadline).abort("too many connections")
        self._open.add(connection)
        self._empty.clear()

    def remove(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._empty.set()

    def _sweep(self) -> None:
        now = self.now()
        for connection in [connection for connection in self._open if connection.deadline < now]:
            connection.expire()
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)


class _Receiving(Enum):
    NOTHING = "nothing"
    HEAD = "head"
    BODY = "body"


_Due = tuple[SignedRequest, errors.KmsError | None, bool] | int
"""What is to be answered: a request, why its body was not read, and whether the connection goes on after it; or the
status for something that is no request."""


class Connection(asyncio.Protocol):
    """One client's. `deadline`: when it is cut off unless it goes on before, by the server's clock."""

    def __init__(self, server: Connections) -> None:
        self._server = server
        self._service = server.service
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._peer = ""
        self.deadline = server.now() + IDLE_SECONDS
        # The request that comes in.
        self._receiving = _Receiving.NOTHING
        self._head_bytes = 0
        self._target = b""
        self._headers: list[Header] = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        # What came in, and is not answered yet.
        self._due: deque[_Due] = deque()
        self._serving: asyncio.Task[None] | None = None
        self._deaf = False
        """Whatever else comes in is thrown away: the connection ends with the answers that are due."""
        self._lingers = False
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def idle(self) -> bool:
        return self._serving is None and self._receiving is _Receiving.NOTHING

    def finish(self) -> None:
        """Ends it: at once if nothing is due, else with the answers."""
        self._deaf = True
        if self._serving is None:
            self._close()

    def expire(self) -> None:
        """Its deadline has passed."""
        if self._receiving is _Receiving.BODY and not self._deaf:
            self._refuse(errors.too_slow(BODY_SECONDS))
        elif self._lingers:
            self._lingers = False
            self._close()
        else:
            self.abort("it was too slow, or silent for too long")

    def abort(self, why: str) -> None:
        _log.debug("a connection of %s is cut off: %s", self._peer or "nobody", why)
        self._deaf = True
        self._transport.abort()

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self._server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.remove(self)
        self._due.clear()
        self._deaf = True
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._serving is not None:
            self._transport.pause_reading()  # this much of the next request, and no more
        if self._receiving is _Receiving.HEAD:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fault(HTTPStatus.BAD_REQUEST)
        if self._receiving is _Receiving.HEAD and self._head_bytes > HEAD_MAX:
            self._fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def pause_writing(self) -> None:
        self._writable.clear()
        self.deadline = self._server.now() + READ_SECONDS

    def resume_writing(self) -> None:
        self._writable.set()
        self.deadline = _NEVER

    # What the parser says.

    def on_message_begin(self) -> None:
        self._receiving = _Receiving.HEAD
        self._head_bytes = 0
        self._target = b""
        self._headers = []
        self._body = []
        self._body_bytes = 0
        if self._serving is None:
            self.deadline = self._server.now() + HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes <= HEAD_MAX:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._head_bytes > HEAD_MAX:
            self._fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if self._parser.should_upgrade():
            self._fault(HTTPStatus.BAD_REQUEST)
        if self._deaf:
            return
        self._receiving = _Receiving.BODY
        if self._serving is None:
            self.deadline = self._server.now() + BODY_SECONDS
        for name, value in self._headers:
            if name == b"content-length" and value.isdigit() and int(value[:12]) > BODY_MAX:
                self._refuse(errors.too_large(BODY_MAX))
                return
            if name == b"expect" and value.lower() == b"100-continue" and self._serving is None:
                self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > BODY_MAX:
            self._refuse(errors.too_large(BODY_MAX))

    def on_message_complete(self) -> None:
        if not self._deaf:
            self._take((self._request(b"".join(self._body)), None, self._parser.should_keep_alive()))

    # Serving.

    def _request(self, body: bytes) -> SignedRequest:
        self._receiving = _Receiving.NOTHING
        method = self._parser.get_method().decode("ascii")
        return SignedRequest(method, self._target, tuple(self._headers), body, self._peer)

    def _refuse(self, error: errors.KmsError) -> None:
        """Answers a request whose body is not read any further."""
        self._take((self._request(b""), error, False))
        self._deaf = self._lingers = True

    def _fault(self, status: HTTPStatus) -> None:
        """Answers what is no request that this server takes."""
        if not self._deaf:
            self._take(status.value)
            self._deaf = self._lingers = True

    def _take(self, due: _Due) -> None:
        self._due.append(due)
        if self._serving is None:
            self.deadline = _NEVER  # the service bounds its own time
            self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        """Answers what is due, in its order."""
        try:
            while self._due:
                due = self._due.popleft()
                if isinstance(due, int):
                    response, keep = Response(due, ((b"content-length", b"0"),), b""), False
                else:
                    request, error, keep = due
                    response = await (
                        self._service.respond(request)
                        if error is None
                        else self._service.refuse(request, error)
                    )
                self._write(response, keep and (not self._deaf or bool(self._due)))
                if not keep:
                    self._due.clear()
                    self._deaf = True
                if not self._writable.is_set():
                    await self._writable.wait()
        except Exception as why:
            _log.error("serving a connection failed: %s", type(why).__name__)
            self.abort("of a fault of the server's")
        finally:
            self._serving = None
        if not self._deaf:
            self.deadline = self._server.now() + (
                IDLE_SECONDS if self._receiving is _Receiving.NOTHING else HEAD_SECONDS
            )
            self._transport.resume_reading()
        elif self._lingers:
            self.deadline = self._server.now() + LINGER_SECONDS
        else:
            self._close()

    def _close(self) -> None:
        """Ends it once its client has read what was written, or the time for that is over."""
        self.deadline = self._server.now() + READ_SECONDS
        self._transport.close()

    def _write(self, response: Response, keep: bool) -> None:
        lines = [name + b": " + value + b"\r\n" for name, value in response.headers]
        status = _STATUS_LINES[response.status]
        self._transport.write(b"".join((status, *lines, b"" if keep else _CLOSE, b"\r\n", response.body)))
