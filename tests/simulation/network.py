"""Links between the hub and its nodes, as TLS connections are: in order and whole, until they break.

Here: delay, partitions (one way, too), breaking and dialling again, and what no TCP does but a test may: single
messages lost, repeated, or late.
Not here: what a message means; sealing (the modules' own tests).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from quorate.ids import HUB, NodeId
from quorate.wire.links import LinkDown

from .loop import VirtualLoop

QUIET = ("node/heartbeat", "link/mark")
"""Not worth a line in the trace."""


class End(Protocol):
    """A process, as the network sees it."""

    name: NodeId
    alive: bool

    def receive(self, sender: NodeId, kind: str, body: bytes) -> None: ...
    def greeted(self, peer: NodeId) -> None: ...
    def lost(self, peer: NodeId) -> None: ...


@dataclass(slots=True)
class Link:
    """`connection` counts connections; `seen`: which ends take it for up; `held`: what waits for a partition's end."""

    node: NodeId
    up: bool = False
    connection: int = 0
    seen: set[NodeId] = field(default_factory=set)
    blocked: set[NodeId] = field(default_factory=set)
    """Whose messages do not get through."""
    held: list[tuple[NodeId, str, bytes]] = field(default_factory=list)
    last: dict[NodeId, float] = field(default_factory=dict)
    dialling: bool = False


class Network:
    def __init__(self, loop: VirtualLoop, rng: Random, note: Callable[[str], None]) -> None:
        self._loop = loop
        self._rng = rng
        self._note = note
        self._links: dict[NodeId, Link] = {}
        self._ends: dict[NodeId, End] = {}
        self.slow = 0.004
        """The longest ordinary delay in seconds."""
        self.loss = 0.0
        self.repeats = 0.0
        self.reorders = 0.0

    def join(self, end: End) -> None:
        """A process is up: its links are dialled."""
        self._ends[end.name] = end
        if end.name != HUB:
            self._links.setdefault(end.name, Link(end.name))
        for link in self._of(end.name):
            self._dial(link)

    def leave(self, name: NodeId, *, abrupt: bool) -> None:
        """A process is gone; of a machine that fell silent, its peers hear after a while only."""
        for link in self._of(name):
            link.seen.discard(name)
            self._break(link, self._rng.uniform(0.0, 2.0) if abrupt else 0.0)

    def block(self, node: NodeId, senders: set[NodeId]) -> None:
        """Messages of `senders` on the node's link wait from now on; the connection breaks after a while."""
        link = self._links[node]
        self._note(f"{node} partitioned: {', '.join(sorted(map(str, senders)))} is not heard")
        link.blocked = senders
        self._loop.call_later(self._rng.uniform(0.5, 4.0), self._give_up, link, link.connection)

    def unblock(self, node: NodeId) -> None:
        link = self._links[node]
        if not link.blocked:
            return
        self._note(f"{node} is not partitioned any more")
        link.blocked = set()
        held, link.held = link.held, []
        for sender, kind, body in held:
            self._send(link, sender, kind, body)
        self._dial(link)

    def heal(self) -> None:
        """Faults off; every link is made anew, as one is from which something was lost."""
        self.loss = self.repeats = self.reorders = 0.0
        self.slow = 0.004
        for link in self._links.values():
            self.unblock(link.node)
            self._break(link, 0.0)

    def post(self, sender: NodeId, to: NodeId, kind: str, body: bytes) -> None:
        """Raises `LinkDown`."""
        link = self._links.get(to if sender == HUB else sender)
        if link is None or sender not in link.seen or HUB not in (sender, to):
            raise LinkDown(to, "there is no link")
        if not link.up:
            return  # the sender has not noticed yet
        if sender in link.blocked:
            link.held.append((sender, kind, body))
        else:
            self._send(link, sender, kind, body)

    def _send(self, link: Link, sender: NodeId, kind: str, body: bytes) -> None:
        if self._rng.random() < self.loss:
            self._note(f"{kind} of {sender} on the link of {link.node} is lost")
            self._loop.call_later(self._rng.uniform(0.0, 3.0), self._give_up, link, link.connection)
            return
        for _ in range(2 if self._rng.random() < self.repeats else 1):
            at = self._loop.time() + self._rng.uniform(0.0002, self.slow)
            if self._rng.random() < self.reorders:
                at += self._rng.uniform(0.0, 1.5)
            else:
                at = link.last[sender] = max(at, link.last.get(sender, 0.0) + 1e-6)
            self._loop.call_at(at, self._deliver, link, link.connection, sender, kind, body)

    def _deliver(self, link: Link, connection: int, sender: NodeId, kind: str, body: bytes) -> None:
        to = self._ends[HUB if sender == link.node else link.node]
        if link.connection != connection or not link.up or not to.alive:
            return
        if sender in link.blocked:
            link.held.append((sender, kind, body))
            return
        if kind not in QUIET:
            self._note(f"{sender} → {to.name}: {kind}")
        to.receive(sender, kind, body)

    def _of(self, name: NodeId) -> list[Link]:
        return list(self._links.values()) if name == HUB else [self._links[name]]

    def _give_up(self, link: Link, connection: int) -> None:
        if link.up and link.connection == connection:
            self._break(link, 0.0)

    def _break(self, link: Link, noticed: float) -> None:
        if link.up:
            link.up = False
            link.held.clear()
        for name in (HUB, link.node):
            if name in link.seen:
                self._loop.call_later(noticed, self._tell_lost, link, link.connection, name)
        self._dial(link)

    def _tell_lost(self, link: Link, connection: int, name: NodeId) -> None:
        end = self._ends.get(name)
        if link.connection != connection or name not in link.seen or end is None or not end.alive:
            return  # a new connection has taken the place of this one, or the process is gone, too
        link.seen.discard(name)
        end.lost(link.node if name == HUB else HUB)

    def _dial(self, link: Link) -> None:
        if not link.dialling:
            link.dialling = True
            self._loop.call_later(self._rng.uniform(0.05, 0.6), self._connect, link)

    def _connect(self, link: Link) -> None:
        link.dialling = False
        ends = [self._ends.get(HUB), self._ends.get(link.node)]
        if link.up or link.blocked:
            return
        there = [end for end in ends if end is not None and end.alive]
        if len(there) < 2:
            return  # dialled again when the other is up
        link.up, link.seen = True, {HUB, link.node}
        link.connection += 1
        link.last.clear()
        self._rng.shuffle(there)
        for end in there:
            end.greeted(link.node if end.name == HUB else HUB)
