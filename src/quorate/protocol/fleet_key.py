"""Rotation of the fleet key: from a new key in the hub's module to the last proof that the old one is erased
(docs/protocols/fleet-key.md).

Here: the order of phases, whom to ask for what and when again, when a phase is over.
Not here: keys, receipts' signatures (the modules make and check them), who carries a message.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from quorate.ids import Instant, NodeId

AGAIN_SECONDS = 1.0
"""How long an answer may take until the same is asked again."""


class Phase(StrEnum):
    DISTRIBUTING = "distributing"
    RENEWING = "renewing"
    WINDOW = "window"
    RETIRING = "retiring"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Seen:
    """How the fleet stands. `active`: the roster's nodes; `live`: those that can be asked. `left`: keys and access keys
    that the hub's module knows under the old fleet key; `held`: whether it has that one still.
    """

    active: frozenset[NodeId]
    live: frozenset[NodeId]
    left: int
    held: bool


@dataclass(frozen=True, slots=True)
class Give:
    """The new key to a node, which proves with a receipt that it keeps it."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Renew:
    """A few of what is left under the old key, by some holder."""


@dataclass(frozen=True, slots=True)
class RetireOwn:
    """The hub's module goes first: from then on it takes no record under the old key."""


@dataclass(frozen=True, slots=True)
class Retire:
    """A node is to erase the old key, and prove it."""

    node: NodeId


Ask = Give | Renew | RetireOwn | Retire


@dataclass(frozen=True, slots=True)
class Step:
    """The next state, whether its phase is to be made durable first, and what to ask then."""

    state: "Rotation"
    persist: bool = False
    asks: tuple[Ask, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotation:
    """`epoch`: the new fleet epoch; `ends`: unix seconds at which the old one's window is over. `kept` and `retired`:
    nodes whose receipts are here.
    """

    epoch: int
    phase: Phase
    ends: int
    kept: frozenset[NodeId] = frozenset()
    retired: frozenset[NodeId] = frozenset()
    asked: Mapping[NodeId, Instant] = field(default_factory=dict)

    def on_kept(self, node: NodeId, epoch: int) -> "Rotation":
        """A receipt of another fleet epoch is none of this rotation's."""
        return self if epoch != self.epoch else self._answered(node, kept=self.kept | {node})

    def on_retired(self, node: NodeId, below: int) -> "Rotation":
        return self if below != self.epoch else self._answered(node, retired=self.retired | {node})

    def waits_for(self, active: frozenset[NodeId]) -> frozenset[NodeId]:
        """Nodes of the roster whose proof is missing: that they have the new key; later, that the old one is gone."""
        if self.phase is Phase.DONE:
            return frozenset()
        return active - (self.retired if self.phase is Phase.RETIRING else self.kept)

    def look(self, seen: Seen, wall: float, now: Instant) -> Step:
        """What to do, as things stand. `wall`: unix seconds, for the window's end alone."""
        if self.phase is Phase.DONE:
            return Step(self)
        phase = self._next(seen, wall)
        if phase is not self.phase:
            return Step(replace(self, phase=phase), persist=True)
        asks: list[Ask] = []
        asked = dict(self.asked)
        for node in sorted(seen.live & seen.active):
            if now - asked.get(node, float("-inf")) < AGAIN_SECONDS:
                continue
            if node not in self.kept:
                asks.append(Give(node))
            elif phase is Phase.RETIRING and not seen.held and node not in self.retired:
                asks.append(Retire(node))
            else:
                continue
            asked[node] = now
        if phase is not Phase.DISTRIBUTING and seen.left:
            asks.append(Renew())
        elif phase is Phase.RETIRING and seen.held:
            asks.append(RetireOwn())
        return Step(replace(self, asked=asked), asks=tuple(asks))

    def _next(self, seen: Seen, wall: float) -> Phase:
        """The phase that is due; one step at a time."""
        live = seen.live & seen.active
        most = 2 * (1 + len(self.kept & seen.active)) > 1 + len(seen.active)  # the hub itself counts
        match self.phase:
            case Phase.DISTRIBUTING if most and live <= self.kept:
                return Phase.RENEWING  # who is away gets the key before any record when it returns
            case Phase.RENEWING if not seen.left:
                return Phase.WINDOW
            case Phase.WINDOW if wall >= self.ends and not seen.left:
                return Phase.RETIRING
            case Phase.RETIRING if not seen.held and seen.active <= self.retired:
                return Phase.DONE
        return self.phase

    def _answered(self, node: NodeId, **receipts: frozenset[NodeId]) -> "Rotation":
        """The node can be asked for the next thing at once."""
        asked = {name: at for name, at in self.asked.items() if name != node}
        return replace(self, asked=asked, **receipts)  # type: ignore[arg-type]
