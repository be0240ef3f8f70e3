"""One connection between two hosts of modules: whole messages of bytes, in order, with bounded queues both
ways.

Here: who is at the other end, the welcome, delivery to the owner, back-pressure.
Not here: dialling, the roster, what replaces a lost link (`links`).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from quorate.errors import QuorateError
from quorate.ids import NodeId
from quorate.wire.tls import PeerRefused, peer_name
from quorate.wire.websocket import Keepalive

_log = logging.getLogger(__name__)

OnMessage = Callable[[NodeId, bytes], Awaitable[None] | None]


class LinkDown(QuorateError):
    """The message cannot reach its receiver now. It was not sent; earlier ones on a lost link may be lost
    too.
    """

    code = "link_down"

    def __init__(self, peer: NodeId, reason: str) -> None:
        super().__init__(
            f"no message can be sent to {peer}: {reason}",
            kept="the message was not sent; the link is being opened again",
            remedy="ask another node, or wait until the link is back (`quorate node list`)",
        )
        self.peer = peer


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    max_message: int = 1 << 20
    send_queue: int = 4 << 20  # unsent to one peer; beyond, the link is dropped
    backlog: int = 1 << 20  # received and not yet handled, for one peer; beyond, reading pauses
    handshake: float = 5.0  # TCP, TLS, WebSocket and welcome together
    half_open: int = 256
    first_retry: float = 0.05
    longest_retry: float = 2.0
    close: float = 1.0
    keepalive: Keepalive = field(default_factory=lambda: Keepalive(idle=5.0, reply=5.0))


class Link(WSListener):
    """A connection from its TLS handshake to its end.

    The accepting end checks the dialler's name with `admit`, then says welcome: an empty message. Only that
    makes the link usable at the dialling end, so a dialler that is refused never believes it has a link.
    """

    def __init__(
        self,
        limits: Limits,
        on_message: OnMessage,
        *,
        dialled: NodeId | None,
        admit: Callable[[NodeId], None],
        opened: Callable[["Link"], None],
        ended: Callable[["Link"], None],
        settled: asyncio.Future[None],
    ) -> None:
        """`dialled`: who must answer, None at the accepting end. `admit` raises `PeerRefused` for a peer not
        wanted.

        `settled` is done when the link is up, with an exception when it will never be. `opened` and `ended`
        come once each, `ended` without `opened` if the link was never up.
        """
        self._limits = limits
        self._on_message = on_message
        self._dialled = dialled
        self._admit = admit
        self._on_opened = opened
        self._on_ended = ended
        self._settled = settled
        self._transport: WSTransport | None = None
        self._is_up = False
        self.was_up = False
        self._peer = dialled
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._paused = False
        self.worker: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[None] = settled.get_loop().create_future()

    @property
    def peer(self) -> NodeId:
        """The other end, of a link that is or was up."""
        assert self._peer is not None
        return self._peer

    def send(self, message: bytes) -> None:
        """Queues one message. Raises `LinkDown` when the link has ended or its queue is full (which ends it)."""
        if not 0 < len(message) <= self._limits.max_message:
            raise ValueError(f"a message is 1 to {self._limits.max_message} bytes, got {len(message)}")
        if self._transport is None or not self._is_up or self._transport.is_close_frame_sent:
            raise LinkDown(self.peer, "the link has ended")
        if (
            self._transport.underlying_transport.get_write_buffer_size() + len(message)
            > self._limits.send_queue
        ):
            self.drop()
            raise LinkDown(self.peer, f"it left more than {self._limits.send_queue} bytes unread")
        self._transport.send(WSMsgType.BINARY, message)

    def drop(self) -> None:
        """Ends the link now; what is queued is lost."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)
        self._end()

    def finish(self) -> None:
        """Ends the link after what is queued has left; receives nothing more."""
        if self._transport is not None:
            self._transport.send_close(WSCloseCode.GOING_AWAY)
            self._transport.disconnect()
        self._is_up = False

    # What the WebSocket library calls, in this order.

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self.ended.done():  # dropped while it was being opened
            self.drop()
            return
        try:
            name = peer_name(transport.underlying_transport.get_extra_info("ssl_object"))
            if self._dialled is not None:
                if name != self._dialled:
                    raise PeerRefused(f"{self._dialled} was called, {name} answered")
                return  # until the welcome
            self._peer = name
            self._admit(name)
        except PeerRefused as why:
            self._refuse(why)
            return
        transport.send(WSMsgType.BINARY, b"")
        self._open()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.ended.done():
            return
        kind = frame.msg_type
        if kind == WSMsgType.BINARY and frame.fin:
            message = frame.get_payload_as_bytes()
            if (
                len(message) > self._limits.max_message
            ):  # the library asks the peer to close, yet passes it on
                self._fail(WSCloseCode.MESSAGE_TOO_BIG)
            elif self._is_up and message:
                self._receive(message)
            elif not self._is_up and not message and self._dialled is not None:
                self._open()
            else:
                self._fail(WSCloseCode.PROTOCOL_ERROR)
        elif kind == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif kind != WSMsgType.PONG:
            self._fail(WSCloseCode.UNSUPPORTED_DATA)  # text, or a message in pieces

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._end()

    def pause_writing(self) -> None:
        """Nothing: `send` looks at the queue itself."""

    def resume_writing(self) -> None:
        """Nothing: `send` looks at the queue itself."""

    # Opening and ending.

    def _open(self) -> None:
        self._is_up = self.was_up = True
        if not self._settled.done():
            self._settled.set_result(None)
        self._on_opened(self)

    def _refuse(self, why: PeerRefused) -> None:
        if not self._settled.done():
            self._settled.set_exception(why)
        self._fail(WSCloseCode.POLICY_VIOLATION)

    def _fail(self, code: WSCloseCode) -> None:
        if self._transport is not None:
            self._transport.send_close(code)
            self._transport.disconnect()
        self._end()

    def _end(self) -> None:
        if self.ended.done():
            return
        self._is_up = False
        self._backlog.clear()
        self._backlog_bytes = 0
        if not self._settled.done():
            self._settled.set_exception(ConnectionResetError("the link ended before it was usable"))
        self.ended.set_result(None)
        self._on_ended(self)

    # Delivery: at once and without a task while handlers return None; one after the other when they wait.

    def _receive(self, message: bytes) -> None:
        if self.worker is None:
            waiting = self._handle(message)
            if waiting is not None:
                self.worker = self.ended.get_loop().create_task(self._work(waiting))
            return
        self._backlog.append(message)
        self._backlog_bytes += len(message)
        if not self._paused and self._backlog_bytes > self._limits.backlog and self._transport is not None:
            self._paused = True
            self._transport.underlying_transport.pause_reading()

    def _handle(self, message: bytes) -> Awaitable[None] | None:
        try:
            return self._on_message(self.peer, message)
        except Exception:
            _log.exception("the handler of a message from %s failed", self._peer)
            return None

    async def _work(self, waiting: Awaitable[None]) -> None:
        try:
            following: Awaitable[None] | None = waiting
            while following is not None:
                try:
                    await following
                except Exception:
                    _log.exception("the handler of a message from %s failed", self._peer)
                following = self._next()
        finally:
            self.worker = None

    def _next(self) -> Awaitable[None] | None:
        """Handles the backlog up to the first handler that waits."""
        waiting = None
        while waiting is None and self._backlog:
            message = self._backlog.popleft()
            self._backlog_bytes -= len(message)
            waiting = self._handle(message)
        if self._paused and self._backlog_bytes <= self._limits.backlog // 2 and not self.ended.done():
            self._paused = False
            if self._transport is not None:
                self._transport.underlying_transport.resume_reading()
        return waiting
