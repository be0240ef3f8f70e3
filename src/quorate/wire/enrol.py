"""The hub's door for those who have no certificate yet: one request, one answer, over server-authenticated
TLS.

Here: the listener at the hub, and the caller's end, which trusts nothing but the fingerprint in its enrolment
token.
Not here: what is asked and answered. Whether a request carries a valid token is for the hub to check.

The caller's end makes two connections. On the first it trusts nobody and asks for the operator root, which
must have the pinned SHA-256; on the second it verifies the hub's chain up to that root, and only then sends
its request.
"""

import asyncio
import hashlib
import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport

from quorate.errors import HubUnreachable
from quorate.ids import HUB
from quorate.wire.door import Door
from quorate.wire.tls import PeerRefused, TlsFiles, anonymous_context, load_root, peer_name, pinned_context
from quorate.wire.websocket import Address, accept_protocol, connect

_log = logging.getLogger(__name__)

ROOT_PATH = "/quorate/v1/root"
ENROL_PATH = "/quorate/v1/enrol"
MAX_BYTES = 64 * 1024
"""The longest request and the longest answer."""


@dataclass(frozen=True, slots=True)
class EnrolmentLimits:
    """Times in seconds. `open` connections at once, the oldest gives way; `answering` of them are being
    answered.
    """

    open: int = 256
    answering: int = 16
    seconds: float = 10.0


def root_fingerprint(roots: Path) -> bytes:
    """SHA-256 (32 bytes) over the DER form of the one certificate in `roots`: what an enrolment token pins.

    Raises `BadInput` when the file does not hold exactly one operator root.
    """
    return hashlib.sha256(load_root(roots)).digest()


class EnrolmentDoor:
    """Listens for enrolment; `answer(request)` makes the answer, both 1 byte to `MAX_BYTES`.

    If `answer` raises, the caller learns only that the hub failed. `on_refused(reason)` tells of the turned
    away.
    """

    def __init__(
        self,
        tls: TlsFiles,
        answer: Callable[[bytes], Awaitable[bytes]],
        *,
        on_refused: Callable[[str], None] = lambda _: None,
        limits: EnrolmentLimits | None = None,
    ) -> None:
        """Raises `BadInput` when the files of `tls` cannot be used."""
        self._limits = limits or EnrolmentLimits()
        self._root = load_root(tls.roots)
        self._tls = tls
        self._context = tls.enrolment_context()
        self._answer = answer
        self._on_refused = on_refused
        self._answering: set[asyncio.Task[None]] = set()
        self._door = Door(
            self._context,
            self._accepted,
            half_open=self._limits.open,
            seconds=self._limits.seconds,
            on_refused=on_refused,
        )

    async def start(self, host: str, port: int) -> int:
        """Listens; port 0 takes a free one. Returns the port. Raises `PortInUse` or `BadInput`."""
        return await self._door.open(host, port)

    def take_up_certificate(self) -> None:
        """New connections are shown the certificate that the files hold now. Raises `BadInput`."""
        self._tls.take_up(self._context)

    async def close(self) -> None:
        """Stops, and cuts off who is still here."""
        await self._door.close()
        tasks = list(self._answering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accepted(self, settled: asyncio.Future[None]) -> asyncio.BaseProtocol:
        return accept_protocol(
            {
                ROOT_PATH: lambda: _Served(settled, self._send_root),
                ENROL_PATH: lambda: _Served(settled, self._serve),
            },
            max_message=MAX_BYTES,
            seconds=self._limits.seconds,
            keepalive=None,
        )

    def _send_root(self, served: "_Served", request: bytes) -> None:
        served.answer(self._root)

    def _serve(self, served: "_Served", request: bytes) -> None:
        if len(self._answering) >= self._limits.answering:
            self._on_refused("too many enrolments at once")
            served.end(WSCloseCode.TRY_AGAIN_LATER)
            return
        task = asyncio.get_running_loop().create_task(self._answer_one(served, request))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer_one(self, served: "_Served", request: bytes) -> None:
        try:
            served.answer(await self._answer(request))
        except Exception:
            _log.exception("an enrolment request failed")
            served.end(WSCloseCode.INTERNAL_ERROR)


class _Served(WSListener):
    """One connection to the door: takes one request, gives one answer, and ends."""

    def __init__(self, settled: asyncio.Future[None], serve: Callable[["_Served", bytes], None]) -> None:
        self._settled = settled
        self._serve = serve
        self._transport: WSTransport | None = None
        self._asked = False

    def answer(self, message: bytes) -> None:
        if not 0 < len(message) <= MAX_BYTES:
            raise ValueError(f"an answer is 1 to {MAX_BYTES} bytes, got {len(message)}")
        if self._transport is not None:
            self._transport.send(WSMsgType.BINARY, message)
        self.end(WSCloseCode.OK)

    def end(self, code: WSCloseCode) -> None:
        if self._transport is not None:
            self._transport.send_close(code)
            self._transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if transport.is_close_frame_sent:  # the library passes on what it has refused as too big
            return
        if frame.msg_type == WSMsgType.BINARY and frame.fin and not self._asked:
            self._asked = True
            self._serve(self, frame.get_payload_as_bytes())
        else:
            self.end(WSCloseCode.POLICY_VIOLATION)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self._settled.done():
            self._settled.set_result(None)

    def pause_writing(self) -> None:
        """Nothing: there is only one answer."""

    def resume_writing(self) -> None:
        """Nothing: there is only one answer."""


async def ask(
    hub: Address, root_sha256: bytes, request: bytes, *, seconds: float = 10.0
) -> tuple[bytes, bytes]:
    """Asks the hub at `hub`, whose operator root has the fingerprint `root_sha256` (32 bytes).

    `request`: 1 byte to `MAX_BYTES`. Returns the answer and the root (DER). Raises `HubUnreachable` when
    nobody answers in `seconds`, `PeerRefused` when who answers is not this fleet's hub; then the request was
    not sent.
    """
    if not 0 < len(request) <= MAX_BYTES:
        raise ValueError(f"a request is 1 to {MAX_BYTES} bytes, got {len(request)}")
    try:
        async with asyncio.timeout(seconds):
            root = await _exchange(hub, ROOT_PATH, anonymous_context(), b"root", None, seconds)
            if not hmac.compare_digest(hashlib.sha256(root).digest(), root_sha256):
                raise PeerRefused(f"the hub at {hub} shows another operator root than the token names")
            return await _exchange(
                hub, ENROL_PATH, pinned_context(root), request, _must_be_hub, seconds
            ), root
    except ssl.SSLCertVerificationError as why:
        raise PeerRefused(f"the certificate of the hub at {hub} does not come from its root") from why
    except (OSError, TimeoutError, WSError) as why:
        raise HubUnreachable("enrolment") from why


def _must_be_hub(transport: WSTransport) -> None:
    name = peer_name(transport.underlying_transport.get_extra_info("ssl_object"))
    if name != HUB:
        raise PeerRefused(f"{name} answered instead of the hub")


async def _exchange(
    hub: Address,
    path: str,
    context: ssl.SSLContext,
    request: bytes,
    check: Callable[[WSTransport], None] | None,
    seconds: float,
) -> bytes:
    asked = _Asked(request, check, asyncio.get_running_loop().create_future())
    try:
        await connect(hub, path, context, asked, max_message=MAX_BYTES, seconds=seconds, keepalive=None)
        return await asked.answered
    finally:
        asked.drop()


class _Asked(WSListener):
    """The caller's end: sends its request as soon as `check` lets it, and keeps the first answer."""

    def __init__(
        self, request: bytes, check: Callable[[WSTransport], None] | None, answered: asyncio.Future[bytes]
    ) -> None:
        self._request = request
        self._check = check
        self._transport: WSTransport | None = None
        self.answered = answered

    def drop(self) -> None:
        self.answered.cancel()
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        try:
            if self._check is not None:
                self._check(transport)
        except PeerRefused as why:
            self.answered.set_exception(why)
            return
        transport.send(WSMsgType.BINARY, self._request)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.answered.done():
            return
        if frame.msg_type == WSMsgType.BINARY and frame.fin:
            self.answered.set_result(frame.get_payload_as_bytes())
        else:
            self.answered.set_exception(ConnectionResetError("the hub gave no answer"))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.answered.done():
            self.answered.set_exception(ConnectionResetError("the hub gave no answer"))

    def pause_writing(self) -> None:
        """Nothing: there is only one request."""

    def resume_writing(self) -> None:
        """Nothing: there is only one request."""
