"""A TLS listener that strangers cannot exhaust.

Here: accepting; at most `half_open` connections that have not finished their handshakes (attack N62). When
there are more, the oldest unfinished one gives way: an honest handshake takes milliseconds, a stalled one
never ends.
Not here: who may come in; the protocol decides, and says so by its `settled` future (a `QuorateError` in it is
a refusal).
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

import aiofastnet

from quorate.errors import BadInput, PortInUse, QuorateError
from quorate.wire.websocket import TLS_SHUTDOWN_SECONDS

_log = logging.getLogger(__name__)

_BACKLOG = 1024
_PAUSE_SECONDS = 0.05  # when the process is out of file descriptors


class Door:
    """Accepts on one port until `close`.

    `protocol(settled)` makes the protocol of one connection; the connection counts as half-open until
    `settled` is done, has `seconds` to get there, and is cut off otherwise. `on_refused(reason)` reports
    failed handshakes.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        protocol: Callable[[asyncio.Future[None]], asyncio.BaseProtocol],
        *,
        half_open: int,
        seconds: float,
        on_refused: Callable[[str], None],
    ) -> None:
        self._context = context
        self._protocol = protocol
        self._half_open = half_open
        self._seconds = seconds
        self._on_refused = on_refused
        self._listener: socket.socket | None = None
        self._unfinished: dict[asyncio.Task[None], None] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def open(self, host: str, port: int) -> int:
        """Listens on `host`, on `port` or, for 0, on a free one; returns it. Raises `PortInUse`, `BadInput`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as why:
            if why.errno == errno.EADDRINUSE:
                raise PortInUse(host, port) from why
            raise BadInput(
                f"cannot listen on {host}:{port}: {why.strerror or why}",
                remedy="choose an address of this machine",
            ) from why
        self.listen(listener)
        return int(listener.getsockname()[1])

    def listen(self, listener: socket.socket) -> None:
        """Listens on a socket that is bound. Raises `OSError`."""
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_reader(listener, self._accept)

    async def close(self) -> None:
        """Stops listening and cuts off what is half-open; settled connections stay."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self) -> None:
        # Never more at once than `half_open`, so that what gives way has been started (and closes its
        # socket).
        for _ in range(min(self._half_open, 64)):
            if self._listener is None:
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as why:
                self._pause(why)
                return
            sock.setblocking(False)
            # Else an answer waits for the acknowledgement of what TLS said before it: 40 ms, once a connection.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._make_room()
            task = self._loop.create_task(self._admit(sock))
            self._unfinished[task] = None
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _make_room(self) -> None:
        if len(self._unfinished) >= self._half_open:
            oldest = next(iter(self._unfinished))
            del self._unfinished[oldest]
            oldest.cancel()

    def _pause(self, why: OSError) -> None:
        """Out of descriptors or memory: free the oldest half-open connection, and look again a little later."""
        assert self._listener is not None
        _log.warning("cannot accept connections: %s", why)
        self._loop.remove_reader(self._listener)
        if self._unfinished:
            next(iter(self._unfinished)).cancel()
        self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._unfinished.pop(task, None)
        self._tasks.discard(task)

    async def _admit(self, sock: socket.socket) -> None:
        settled: asyncio.Future[None] = self._loop.create_future()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(self._seconds):
                transport, _ = await aiofastnet.connect_accepted_socket(
                    self._loop,
                    lambda: self._protocol(settled),
                    sock,
                    ssl=self._context,
                    ssl_handshake_timeout=self._seconds,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                )
                await settled
        except TimeoutError:
            self._on_refused(f"handshake unfinished after {self._seconds} s")
            _abort(transport)
        except QuorateError as why:  # the protocol does not want this peer, and has ended the connection
            self._on_refused(str(why))
        except OSError as why:
            self._on_refused(f"handshake failed: {why}")
            _abort(transport)
        except asyncio.CancelledError:
            self._on_refused("gave way to newer connections, or the listener closed")
            _abort(transport)
            raise


def _abort(transport: asyncio.Transport | None) -> None:
    if transport is not None:
        transport.abort()
