"""The node among its fleet: links, greetings, and messages sealed and opened by the module.

Here: who is connected and greeted, what waits for a greeting, the roster's addresses.
Not here: what a message makes the node do (`dispatch` finds its handler).

A message can be sealed only to a peer whose boot number is known, and only its `link/hello` tells that. So
both ends say hello when a link is up; what is posted before the peer's hello has come waits for it.

A hello carries its sender's mark: how far its vault has come. A peer whose mark shows an older copy of its vault is not
greeted; it is shown its own later one, and goes on as a new start once it has taken that (attack N89).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from quorate import _core
from quorate.host.dispatch import Dispatch, Fields
from quorate.hsm import Hsm
from quorate.ids import HUB, NodeId
from quorate.wire.links import Address, LinkDown, Links, TlsFiles

_log = logging.getLogger(__name__)

_HELLO = "link/hello"
_MARK = "link/mark"
_BEHIND = "link/behind"
_REKEY = "quorate/v1/fleet/rekey"
_NO_KEY = ("no_fleet_key", "old_fleet_key")
"""Why a message of a node that missed a rotation of the fleet key is not opened."""
_WAITING = 256
"""Messages that wait for one peer's hello."""
_REPLIES = 8
"""Repeated hellos of one link that are answered: enough for a peer that had no key yet, no endless echo."""
_KEEP = 8
"""Ticks between two looks for marks that are to be written."""


@dataclass(slots=True)
class _Peer:
    greeted: bool = False
    waiting: deque[tuple[str, bytes]] = field(default_factory=deque)
    replies: int = 0
    rekeys: int = 0
    ticks: int = 0


class Fleet:
    """`on_greeted` and `on_lost` tell which peers can be written to; `on_behind(peer, why)`: it runs on an older copy
    of its vault; `on_rolled_back(later)`: this process does, as its own mark, which a peer has shown, proves.
    """

    def __init__(
        self,
        hsm: Hsm,
        tls: TlsFiles,
        dispatch: Dispatch,
        *,
        on_greeted: Callable[[NodeId], None],
        on_lost: Callable[[NodeId], None],
        on_behind: Callable[[NodeId, str], None],
        on_rolled_back: Callable[[bytes], None],
    ) -> None:
        self.own = NodeId(hsm.module.name)
        self._hsm = hsm
        self._dispatch = dispatch
        self._on_greeted = on_greeted
        self._on_lost = on_lost
        self._on_behind = on_behind
        self._on_rolled_back = on_rolled_back
        self._ticks = 0
        self._told = 0
        """The generation that the hub was told of last."""
        self._peers: dict[NodeId, _Peer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._links = Links(
            self.own,
            tls,
            on_message=self._on_message,
            on_up=self._on_up,
            on_down=self._on_down,
            on_refused=lambda reason: self._dispatch.drop("connection", self.own, "link", reason),
        )
        dispatch.on(_HELLO, 1, self._on_hello, hub_only=False)
        dispatch.on(_MARK, 1, self._on_mark, hub_only=False)
        dispatch.on(_BEHIND, 1, self._on_shown, hub_only=False, queued=True)

    async def start(self, listen: Address) -> None:
        """Raises `PortInUse`, `BadInput`."""
        await self._links.start(listen.host, listen.port)
        self.spawn(self._dispatch.run_queue())
        self.use_roster()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._links.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def take_up_certificate(self) -> None:
        """New links show the certificate that the files hold now. Raises `BadInput`."""
        self._links.take_up_certificate()

    def use_roster(self) -> None:
        """Links to whom the module's roster lists as active, and to nobody else."""
        peers: dict[NodeId, Address | None] = {}
        for entry in self._hsm.module.entries():
            if entry["standing"] == "active":
                peers[NodeId(entry["name"])] = Address.parse(entry["address"])
        self._links.set_peers(peers)

    def is_up(self, peer: NodeId) -> bool:
        """Whether `peer` is connected and greeted."""
        known = self._peers.get(peer)
        return known is not None and known.greeted

    @property
    def up(self) -> frozenset[NodeId]:
        return frozenset(peer for peer, known in self._peers.items() if known.greeted)

    def post(self, to: NodeId, kind: str, *fields: object) -> None:
        """Sends one message; to ourselves, it arrives a moment later. Raises `LinkDown`."""
        if to == self.own:
            self._loop.call_soon(self._take_own, kind, list(fields))
            return
        peer = self._peers.get(to)
        if peer is None:
            raise LinkDown(to, "there is no link")
        body = _core.encode(list(fields))
        if peer.greeted:
            self._links.post(to, self._hsm.module.seal(to.value, kind, body))
        elif len(peer.waiting) < _WAITING:
            peer.waiting.append((kind, body))
        else:
            raise LinkDown(to, "it has not said hello")

    def greet_all(self) -> None:
        """Says hello on every link: this module has another fleet key."""
        for name in list(self._peers):
            self._say_hello(name)

    def tick(self) -> None:
        """Every quarter of a second: whoever has not greeted us for a second is asked again; the hub hears how far this
        vault has come, and what was heard of others is written now and then.
        """
        for name, peer in self._peers.items():
            if not peer.greeted:
                peer.ticks += 1
                if peer.ticks % 4 == 0:
                    self._say_hello(name)
                    if self.own == HUB:  # it may have no fleet key yet, and so no hello to say
                        self._send_key(name)
        self._tell_mark()
        self._ticks += 1
        if self._ticks % _KEEP == 0:
            self.spawn(self._keep_marks())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` beside everything else; its failure is logged."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (why := task.exception()) is not None:
            _log.error("background work failed", exc_info=why)

    # What the links call.

    def _on_up(self, name: NodeId) -> None:
        self._peers[name] = _Peer()
        self._say_hello(name)

    def _on_down(self, name: NodeId) -> None:
        peer = self._peers.pop(name, None)
        if peer is not None and peer.greeted:
            self._on_lost(name)

    def _on_message(self, link: NodeId, message: bytes) -> Any:
        try:
            sender, kind, body = self._hsm.module.open_message(message)
        except _core.CoreError as why:
            if link == HUB and _is_rekey(message):
                return self._rekey(message)
            self._dispatch.drop(why.code, link, "message", why.message)
            if self.own == HUB and why.code in _NO_KEY:
                self._send_key(link)
            if why.code == "rolled_back":
                self._show_behind(link, why.message)
            return None
        if sender != link.value:
            self._dispatch.drop("wrong_sender", link, kind)
            return None
        return self._dispatch.take(link, kind, body)

    def _on_hello(self, sender: NodeId, _fields: Fields) -> None:
        peer = self._peers.get(sender)
        if peer is None:
            return
        if peer.greeted:
            peer.replies += 1
            if peer.replies <= _REPLIES:
                self._say_hello(sender)
            return
        peer.greeted = True
        self._on_greeted(sender)
        while peer.waiting:
            kind, body = peer.waiting.popleft()
            self._links.post(sender, self._hsm.module.seal(sender.value, kind, body))

    async def _rekey(self, message: bytes) -> None:
        try:
            await self._hsm.slow(self._hsm.module.accept_rekey, message)
        except _core.CoreError as why:
            self._dispatch.drop(why.code, HUB, "link/rekey", why.message)
            return
        self.greet_all()

    def _send_key(self, name: NodeId) -> None:
        """The newest fleet key to a node that has none, or one that we accept no more: its next hello we can open."""
        peer = self._peers.get(name)
        if peer is None or peer.rekeys >= _REPLIES:
            return
        peer.rekeys += 1
        try:
            self._links.post(name, self._hsm.module.rekey_for(name.value))
        except (_core.CoreError, LinkDown) as why:
            _log.info("no fleet key to %s: %s", name, why)

    # Who runs on an older copy of its vault.

    def _show_behind(self, peer: NodeId, why: str) -> None:
        """Its own signature is what convinces it: nobody else can put a module out."""
        self._on_behind(peer, why)
        try:
            self._links.post(peer, self._hsm.module.evidence(peer.value))
        except (_core.CoreError, LinkDown) as failed:
            _log.info("%s could not be shown how far its vault had come: %s", peer, failed)

    async def _on_shown(self, sender: NodeId, fields: Fields) -> None:
        later = bytes(fields[0])
        if not await self._hsm.slow(self._hsm.module.take_evidence, later):
            return
        _log.debug("%s showed that this vault is an older copy", sender)
        self._on_rolled_back(later)
        for name in list(self._peers):
            self._say_hello(name)

    def _on_mark(self, sender: NodeId, fields: Fields) -> None:
        try:
            self._hsm.module.note_mark(sender.value, bytes(fields[0]))
        except _core.CoreError as why:
            if why.code == "rolled_back":
                self._show_behind(sender, why.message)
            raise

    def _tell_mark(self) -> None:
        generation = self._hsm.module.generation
        if self.own == HUB or generation == self._told or not self.is_up(HUB):
            return
        self._told = generation
        try:
            self.post(HUB, _MARK, self._hsm.module.mark())
        except (_core.CoreError, LinkDown) as why:
            _log.debug("the hub was not told of generation %d: %s", generation, why)

    async def _keep_marks(self) -> None:
        await self._hsm.slow(self._hsm.module.keep_marks)

    def _say_hello(self, name: NodeId) -> None:
        try:
            for hello in self._hsm.module.hellos(name.value):
                self._links.post(name, hello)
        except (_core.CoreError, LinkDown) as why:
            _log.debug("no hello to %s: %s", name, why)

    def _take_own(self, kind: str, fields: Fields) -> None:
        waiting = self._dispatch.take_fields(self.own, kind, fields)
        if waiting is not None:
            self.spawn(_wait_for(waiting))


async def _wait_for(waiting: Any) -> None:
    await waiting


def _is_rekey(message: bytes) -> bool:
    try:
        return bool(_core.view(message)["label"] == _REKEY)
    except _core.CoreError:
        return False
