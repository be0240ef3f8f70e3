"""Who is live: what the nodes' heartbeats say, and since when nothing was heard; and where the roster puts them.

Here: one entry for each node that has been heard of. Not here: whom to ask (`protocol/quorum`).
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from quorate.host.dispatch import Dispatch, Fields
from quorate.ids import DomainId, Instant, NodeId

LIVE_SECONDS = 1.0
"""A node whose last heartbeat is older is not asked."""
SKEW_MS = 60_000
"""A clock that is off by more is reported; freshness rests on no clock."""
QUARANTINED = "quarantined"
"""The state of a node that was started from an older copy of its vault, until new epochs have replaced its shards."""
_WAITS = "its vault was an older copy; it serves again when its domains have new epochs"


@dataclass(slots=True)
class Node:
    """What one node said last. `epochs`: of each domain, its current epoch and that epoch's configuration hash, empty
    where no shard of it serves there; `retired`: epochs of which it has a shard that serves nothing; `worn`: domains
    whose shard there has given most of its answers. `version`: of these three, as the node counts it.
    """

    state: str = "starting"
    kms: bool = False
    clock_ms: int = 0
    open_sessions: int = 0
    sequence: int = 0
    generation: int = 0
    version: int = 0
    epochs: dict[DomainId, tuple[int, bytes]] = field(default_factory=dict)
    retired: dict[DomainId, frozenset[int]] = field(default_factory=dict)
    worn: set[DomainId] = field(default_factory=set)
    heard: Instant = float("-inf")
    linked: bool = False

    def is_live(self, now: Instant) -> bool:
        return self.linked and now - self.heard < LIVE_SECONDS


Domains = Set[DomainId] | None
"""None: all of them."""


class Nodes:
    """`on_change(node, domains)` is called for every heartbeat, with the domains of whose epochs it says something new;
    with None when a node became live, or is not live any more. `ask_again(node)`: it is to say all of its epochs.
    """

    def __init__(
        self,
        now: Callable[[], Instant],
        on_change: Callable[[NodeId, Domains], None],
        ask_again: Callable[[NodeId], None],
    ) -> None:
        self._now = now
        self._on_change = on_change
        self._ask_again = ask_again
        self._live: set[NodeId] = set()
        self._zones: dict[NodeId, str] = {}
        self.active: frozenset[NodeId] = frozenset()
        """Whom the roster lists as such."""
        self._retired: set[NodeId] = set()
        self.known: dict[NodeId, Node] = {}
        self.behind: dict[NodeId, str] = {}
        """Nodes that are not heard, for they showed an older copy of their vault; and what they showed."""

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("node/heartbeat", 9, self._on_heartbeat, hub_only=False)

    def use_roster(self, entries: Iterable[Mapping[str, Any]]) -> None:
        listed = list(entries)
        self._zones = {NodeId(entry["name"]): entry["zone"] for entry in listed}
        self.active = frozenset(NodeId(entry["name"]) for entry in listed if entry["standing"] == "active")
        self._retired = {NodeId(entry["name"]) for entry in listed if entry["standing"] == "retired"}

    def is_retired(self, name: NodeId) -> bool:
        """It was signed out of the fleet, for good."""
        return name in self._retired

    def zone(self, name: NodeId) -> str:
        """As the operator signed it: a node does not choose its own."""
        return self._zones.get(name, "")

    def greeted(self, name: NodeId) -> None:
        self.behind.pop(name, None)
        self.known.setdefault(name, Node()).linked = True

    def lost(self, name: NodeId) -> None:
        node = self.known.setdefault(name, Node())
        node.linked = False
        node.sequence = 0
        node.version = 0
        self._live.discard(name)
        self._on_change(name, None)

    def is_quarantined(self, name: NodeId) -> bool:
        """It, or what it says, shows that its vault is an older copy."""
        known = self.known.get(name)
        return name in self.behind or (known is not None and known.state == QUARANTINED)

    def reason(self, name: NodeId) -> str | None:
        """Why the node is quarantined, for people."""
        return self.behind.get(name) or (_WAITS if self.is_quarantined(name) else None)

    def is_live(self, name: NodeId) -> bool:
        node = self.known.get(name)
        return node is not None and node.is_live(self._now())

    @property
    def live(self) -> frozenset[NodeId]:
        return frozenset(name for name in self.known if self.is_live(name))

    def took_up(self, name: NodeId, domain: DomainId, epoch: int, configuration: bytes) -> None:
        """The node has proven that it holds an epoch; its next heartbeat will say so."""
        node = self.known.setdefault(name, Node())
        node.epochs[domain] = (epoch, configuration)
        self._on_change(name, {domain})

    def tick(self) -> None:
        """Finds those that fell silent."""
        for name in self._live - self.live:
            self._live.discard(name)
            self._on_change(name, None)

    def _on_heartbeat(self, sender: NodeId, fields: Fields) -> None:
        state, kms, clock_ms, open_sessions, sequence, generation, since, version, rows = fields
        node = self.known.setdefault(sender, Node())
        node.state, node.kms = str(state), bool(kms)
        node.clock_ms, node.open_sessions = int(clock_ms), int(open_sessions)
        node.sequence, node.generation = int(sequence), int(generation)
        changed = self._take(sender, node, int(since), int(version), rows)
        node.heard = self._now()
        if node.linked and sender not in self._live:
            self._live.add(sender)
            changed = None
        self._on_change(sender, changed)

    def _take(self, sender: NodeId, node: Node, since: int, version: int, rows: Fields) -> Domains:
        """What the node says of its epochs: what has changed `since` the version that is known here, or all (0)."""
        if since and since != node.version:
            self._ask_again(sender)
            return frozenset()
        if not since:
            node.epochs, node.retired, node.worn = {}, {}, set()
        changed = set()
        for name, epoch, hash_, retired, worn in rows:
            domain = DomainId(name)
            changed.add(domain)
            node.epochs[domain] = (int(epoch), bytes(hash_))
            node.retired[domain] = frozenset(map(int, retired))
            (node.worn.add if worn else node.worn.discard)(domain)
        node.version = version
        return changed if since else None
