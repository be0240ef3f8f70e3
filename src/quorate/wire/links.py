"""Links to every other host of a fleet: one persistent mutual-TLS 1.3 connection for each pair, opened again
for ever.

Here: who dials whom, the roster's names and addresses, reconnecting, sending.
Not here: what a message means or whether it is authentic (checked inside the modules); waiting for a peer:
`send` fails at once when there is no link.

Who dials: a node dials the hub; of two nodes the smaller name dials. So there is one connection for a pair,
and two that cross cannot happen. A second connection from the same peer replaces the first: it has restarted.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Mapping

from picows import WSError

from quorate.ids import HUB, NodeId
from quorate.wire.door import Door
from quorate.wire.link import Limits, Link, LinkDown, OnMessage
from quorate.wire.tls import PeerRefused, TlsFiles
from quorate.wire.websocket import Address, accept_protocol, connect

__all__ = ["Address", "Limits", "LinkDown", "Links", "OnMessage", "PeerRefused", "TlsFiles", "dials"]

_log = logging.getLogger(__name__)

PATH = "/quorate/v1/link"


def dials(own: NodeId, peer: NodeId) -> bool:
    """Whether `own` opens the connection to `peer`; exactly one of a pair does."""
    if HUB in (own, peer):
        return own != HUB
    return own < peer


class Links:
    """All links of one process; lives in one event loop.

    `on_message(sender, message)` is called in order for each link, straight from the socket. If it returns an
    awaitable, that sender's next message waits for it, and its link stops reading when too much waits; other
    links go on. `on_up` and `on_down` tell of changes; `on_refused(reason)` of connections turned away. None
    of them may raise.
    """

    def __init__(
        self,
        own: NodeId,
        tls: TlsFiles,
        *,
        on_message: OnMessage,
        on_up: Callable[[NodeId], None] = lambda _: None,
        on_down: Callable[[NodeId], None] = lambda _: None,
        on_refused: Callable[[str], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        """Raises `BadInput` when the files of `tls` cannot be used."""
        self._own = own
        self._tls = tls
        self._client = tls.client_context()
        self._server = tls.server_context()
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._on_refused = on_refused
        self._limits = limits or Limits()
        self._peers: dict[NodeId, Address | None] = {}
        self._links: dict[NodeId, Link] = {}
        self._diallers: dict[NodeId, asyncio.Task[None]] = {}
        self._open: set[Link] = set()  # every connection, usable or not
        self._door: Door | None = None
        self._closed = False

    async def start(self, host: str, port: int) -> int:
        """Listens; port 0 takes a free one. Returns the port. Raises `PortInUse` or `BadInput`."""
        door = Door(
            self._server,
            self._accepted,
            half_open=self._limits.half_open,
            seconds=self._limits.handshake,
            on_refused=self._refused,
        )
        chosen = await door.open(host, port)
        self._door = door
        return chosen

    def take_up_certificate(self) -> None:
        """New connections, dialled or accepted, show the certificate that the files hold now. Raises `BadInput`."""
        self._tls.take_up(self._client)
        self._tls.take_up(self._server)

    def set_peers(self, peers: Mapping[NodeId, Address | None]) -> None:
        """The roster as it is now: whom to dial and let in; links to anybody else end.

        An address may be None where the peer dials us. A changed address is dialled again.
        """
        wanted = {peer: address for peer, address in peers.items() if peer != self._own}
        previous, self._peers = self._peers, wanted
        for peer in previous:
            if peer not in wanted or (dials(self._own, peer) and wanted[peer] != previous[peer]):
                self._stop(peer)
        for peer, address in wanted.items():
            if (
                peer not in self._diallers
                and address is not None
                and dials(self._own, peer)
                and not self._closed
            ):
                self._diallers[peer] = asyncio.get_running_loop().create_task(self._dial(peer, address))

    async def send(self, to: NodeId, message: bytes) -> None:
        """`post` for callers that await."""
        self.post(to, message)

    def post(self, to: NodeId, message: bytes) -> None:
        """Hands one message of 1 byte to `max_message` bytes to the link; never waits for the peer.

        Returning says nothing about arrival. Raises `LinkDown` at once when there is no link, or when the
        peer reads so slowly that its queue is full, which ends the link.
        """
        link = self._links.get(to)
        if link is None:
            raise LinkDown(to, "there is no link" if to in self._peers else "it is not in the roster")
        link.send(message)

    @property
    def up(self) -> frozenset[NodeId]:
        """The peers that can be sent to now."""
        return frozenset(self._links)

    async def close(self) -> None:
        """Ends everything: what is queued has `limits.close` seconds to leave. `on_down` comes for each link."""
        self._closed = True
        if self._door is not None:
            await self._door.close()
        tasks = [*self._diallers.values(), *(link.worker for link in self._open if link.worker is not None)]
        for task in tasks:
            if task is not asyncio.current_task():
                task.cancel()
        links = list(self._open)
        for link in links:
            link.finish()
        if links:
            await asyncio.wait([link.ended for link in links], timeout=self._limits.close)
        for link in links:
            link.drop()
        await asyncio.gather(
            *(task for task in tasks if task is not asyncio.current_task()), return_exceptions=True
        )

    # The accepting end.

    def _accepted(self, settled: asyncio.Future[None]) -> asyncio.BaseProtocol:
        return accept_protocol(
            {PATH: lambda: self._link(None, settled)},
            max_message=self._limits.max_message,
            seconds=self._limits.handshake,
            keepalive=self._limits.keepalive,
        )

    def _admit(self, peer: NodeId) -> None:
        if peer not in self._peers:
            raise PeerRefused(f"{peer} is not in the roster")
        if dials(self._own, peer):
            raise PeerRefused(f"{peer} waits to be dialled, it does not dial {self._own}")

    # The dialling end.

    async def _dial(self, peer: NodeId, address: Address) -> None:
        """Keeps one link to `peer`, until cancelled."""
        delay = self._limits.first_retry
        while True:
            try:
                link = await self._dial_once(peer, address)
            except (PeerRefused, ssl.SSLCertVerificationError) as why:
                self._refused(f"{peer} at {address}: {why}")
            except (OSError, TimeoutError, WSError) as why:
                _log.debug("%s at %s cannot be reached: %s", peer, address, why)
            else:
                await asyncio.shield(link.ended)
                delay = self._limits.first_retry
            # At random, so that a whole fleet does not dial as one.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(2 * delay, self._limits.longest_retry)

    async def _dial_once(self, peer: NodeId, address: Address) -> Link:
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        link = self._link(peer, settled)
        try:
            async with asyncio.timeout(self._limits.handshake):
                await connect(
                    address,
                    PATH,
                    self._client,
                    link,
                    max_message=self._limits.max_message,
                    seconds=self._limits.handshake,
                    keepalive=self._limits.keepalive,
                )
                await settled
        except BaseException:
            settled.cancel()
            link.drop()
            raise
        return link

    # Both ends.

    def _link(self, dialled: NodeId | None, settled: asyncio.Future[None]) -> Link:
        link = Link(
            self._limits,
            self._on_message,
            dialled=dialled,
            admit=self._admit,
            opened=self._opened,
            ended=self._ended,
            settled=settled,
        )
        self._open.add(link)
        return link

    def _opened(self, link: Link) -> None:
        before = self._links.get(link.peer)
        if before is not None:
            before.drop()
        self._links[link.peer] = link
        self._on_up(link.peer)

    def _ended(self, link: Link) -> None:
        self._open.discard(link)
        if link.was_up and self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._on_down(link.peer)

    def _stop(self, peer: NodeId) -> None:
        dialler = self._diallers.pop(peer, None)
        if dialler is not None:
            dialler.cancel()
        link = self._links.get(peer)
        if link is not None:
            link.drop()

    def _refused(self, reason: str) -> None:
        _log.warning("a connection was refused: %s", reason)
        self._on_refused(reason)
