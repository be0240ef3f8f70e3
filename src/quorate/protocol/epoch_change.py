"""Epoch changes at the hub; creation is the first (docs/protocols/epochs.md).

Here: one attempt for one domain: planned → dealt → prepared → committed → closed, or aborted; what is durable
before what is sent.
Not here: whether dealings and receipts are good (the modules), the database, sockets. An attempt that the hub
finds in its database after a restart begins with `resume`.

The commit is one durable record: with it the epoch exists, whatever fails after it. Before it, anything that
goes wrong aborts the attempt and burns its number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from quorate.ids import HUB, Instant, NodeId
from quorate.protocol.quorum import Shard

KEYS_SECONDS = 5.0
"""How long members may take to make their keys for a plan."""
PREPARE_SECONDS = 2.0
"""How long the commit waits for every live member once there are enough receipts."""
GIVE_UP_SECONDS = 10.0
"""How long enough receipts may take."""


class Phase(StrEnum):
    PLANNED = "planned"
    DEALT = "dealt"
    COMMITTED = "committed"
    CLOSED = "closed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Plan:
    """A signed plan's public part. `needed`: k + z receipts."""

    hash: bytes
    statement: bytes
    charter: bytes
    seats: tuple[Shard, ...]
    needed: int

    @property
    def members(self) -> tuple[NodeId, ...]:
        return tuple(sorted({node for _, node in self.seats}))


@dataclass(frozen=True, slots=True)
class Dealt:
    """One dealing and the configuration it came to; `sealed`: sub-shares in the order of the plan's seats."""

    dealing: bytes
    sealed: tuple[bytes, ...]
    configuration: bytes
    configuration_hash: bytes


# Events.


@dataclass(frozen=True, slots=True)
class KeysCame:
    sender: NodeId
    plan_hash: bytes
    keys: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class DealingMade:
    dealt: Dealt


@dataclass(frozen=True, slots=True)
class PreparedCame:
    """Receipts by index, of the configuration with this hash."""

    sender: NodeId
    configuration_hash: bytes
    receipts: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class ActivatedCame:
    sender: NodeId
    configuration_hash: bytes
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RefusedCame:
    """A member's module refused a step, or the hub's own did."""

    sender: NodeId
    plan_hash: bytes
    code: str
    reason: str
    culprits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeUp:
    node: NodeId


@dataclass(frozen=True, slots=True)
class NodeDown:
    node: NodeId


@dataclass(frozen=True, slots=True)
class TimePassed:
    pass


Event = KeysCame | DealingMade | PreparedCame | ActivatedCame | RefusedCame | NodeUp | NodeDown | TimePassed

# What to do, in order.


@dataclass(frozen=True, slots=True)
class Persist:
    """Make the attempt's new phase durable before anything that follows."""

    phase: Phase
    dealt: Dealt | None = None
    receipts: tuple[bytes, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Deal:
    """Have the hub's module deal to these keys, in the order of the seats; comes back as `DealingMade`."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SendPlan:
    to: NodeId


@dataclass(frozen=True, slots=True)
class SendPrepare:
    """`sealed`: (own index, position of the dealer, sub-share)."""

    to: NodeId
    configuration: bytes
    dealing: bytes
    sealed: tuple[tuple[int, int, bytes], ...]


@dataclass(frozen=True, slots=True)
class SendCommit:
    to: NodeId
    configuration: bytes
    receipts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SendAbort:
    to: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The attempt is over: committed (and every live member has activated), or aborted (`reason`)."""

    committed: bool
    code: str = ""
    reason: str = ""
    culprits: tuple[str, ...] = ()


Action = Persist | Deal | SendPlan | SendPrepare | SendCommit | SendAbort | Finished


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt; `live` are the members that can be reached."""

    plan: Plan
    live: frozenset[NodeId]
    phase: Phase
    since: Instant
    """When the phase began."""
    keys: Mapping[int, bytes] = field(default_factory=dict)
    dealing: bool = False
    """The module was asked to deal: it does so once for a number, and refuses a second time."""
    dealt: Dealt | None = None
    receipts: Mapping[int, bytes] = field(default_factory=dict)
    activated: frozenset[int] = frozenset()
    told: bool = False
    """`Finished` was said."""

    @classmethod
    def begin(cls, plan: Plan, live: frozenset[NodeId], now: Instant) -> "Step":
        """Creation needs every member: each must make its keys for the plan."""
        attempt = cls(plan, live & frozenset(plan.members), Phase.PLANNED, now)
        first = Step(attempt, (Persist(Phase.PLANNED),))
        if absent := [node for node in plan.members if node not in live]:
            names = ", ".join(map(str, absent))
            return first.then(attempt._abort("not_live", f"{names} cannot be reached"))
        return Step(attempt, (*first.do, *(SendPlan(node) for node in plan.members)))

    @classmethod
    def resume(
        cls, plan: Plan, phase: Phase, dealt: Dealt | None, receipts: Mapping[int, bytes], now: Instant
    ) -> "Step":
        """After a restart of the hub: what was not dealt is lost with the polynomial, the rest goes on."""
        attempt = cls(plan, frozenset(), phase, now, dealt=dealt, receipts=receipts)
        if phase is Phase.PLANNED:
            return attempt._abort("restarted", "the hub restarted before it had dealt")
        return Step(attempt)

    @property
    def wake(self) -> Instant | None:
        match self.phase:
            case Phase.PLANNED:
                return self.since + KEYS_SECONDS
            case Phase.DEALT if self.is_enough:
                return self.since + PREPARE_SECONDS
            case Phase.DEALT:
                return self.since + GIVE_UP_SECONDS
            case Phase.COMMITTED if not self.told:
                return self.since + PREPARE_SECONDS
        return None

    @property
    def is_enough(self) -> bool:
        return len(self.receipts) >= self.plan.needed

    def handle(self, event: Event, now: Instant) -> "Step":
        match event:
            case NodeUp(node):
                return self._node_up(node)
            case NodeDown(node):
                return replace(self, live=self.live - {node})._go_on(now)
            case KeysCame(sender, plan_hash, keys) if self._expects_keys(plan_hash):
                own = {i: key for i, key in keys.items() if (i, sender) in self.plan.seats}
                return replace(self, keys={**self.keys, **own})._deal()
            case DealingMade(dealt) if self.phase is Phase.PLANNED:
                return self._dealt(dealt, now)
            case PreparedCame(sender, configuration, receipts) if self._is_of(Phase.DEALT, configuration):
                own = {i: receipt for i, receipt in receipts.items() if (i, sender) in self.plan.seats}
                return replace(self, receipts={**self.receipts, **own})._go_on(now)
            case ActivatedCame(sender, configuration, indices) if self._is_of(Phase.COMMITTED, configuration):
                fresh = {index for index in indices if (index, sender) in self.plan.seats}
                return replace(self, activated=self.activated | fresh)._go_on(now)
            case RefusedCame(sender, plan_hash, code, reason, culprits) if self._may_refuse(
                sender, plan_hash
            ):
                return self._abort(code, f"{sender}: {reason}", culprits)
            case TimePassed():
                return self._time_passed(now)
        return Step(self)  # late, repeated, or of another attempt

    def _expects_keys(self, plan_hash: bytes) -> bool:
        return self.phase is Phase.PLANNED and not self.dealing and plan_hash == self.plan.hash

    def _may_refuse(self, sender: NodeId, plan_hash: bytes) -> bool:
        """A member, or the hub's own module, and only while nothing is committed."""
        is_open = self.phase in (Phase.PLANNED, Phase.DEALT) and plan_hash == self.plan.hash
        return is_open and (sender == HUB or sender in self.plan.members)

    def _is_of(self, phase: Phase, configuration_hash: bytes) -> bool:
        return (
            self.phase is phase
            and self.dealt is not None
            and self.dealt.configuration_hash == configuration_hash
        )

    def _deal(self) -> "Step":
        indices = [index for index, _ in self.plan.seats]
        if any(index not in self.keys for index in indices):
            return Step(self)
        return Step(replace(self, dealing=True), (Deal(tuple(self.keys[index] for index in indices)),))

    def _dealt(self, dealt: Dealt, now: Instant) -> "Step":
        after = replace(self, phase=Phase.DEALT, since=now, dealt=dealt, keys={}, dealing=False)
        prepares = tuple(after._prepare(node) for node in self.plan.members)
        return Step(after, (Persist(Phase.DEALT, dealt=dealt), *prepares))

    def _prepare(self, node: NodeId) -> SendPrepare:
        assert self.dealt is not None
        own = tuple(
            (index, 0, sealed)
            for (index, holder), sealed in zip(self.plan.seats, self.dealt.sealed, strict=True)
            if holder == node
        )
        return SendPrepare(node, self.dealt.configuration, self.dealt.dealing, own)

    def _node_up(self, node: NodeId) -> "Step":
        if node not in self.plan.members:
            return Step(self)
        after = replace(self, live=self.live | {node})
        held = {index for index, holder in self.plan.seats if holder == node}
        match self.phase:
            case Phase.PLANNED if not held <= self.keys.keys():
                return Step(after, (SendPlan(node),))
            case Phase.DEALT if not held <= self.receipts.keys():
                return Step(after, (after._prepare(node),))
            case Phase.COMMITTED | Phase.CLOSED if not held <= self.activated:
                return Step(after, (after._commit_for(node),))
        return Step(after)

    def _go_on(self, now: Instant) -> "Step":
        """Commits, or closes, when every live member has done its part."""
        waited_for = {index for index, node in self.plan.seats if node in self.live}
        if self.phase is Phase.DEALT and self.is_enough and waited_for <= self.receipts.keys():
            return self._commit(now)
        if self.phase is Phase.COMMITTED and self.activated and waited_for <= self.activated:
            return self._close()
        return Step(self)

    def _commit(self, now: Instant) -> "Step":
        after = replace(self, phase=Phase.COMMITTED, since=now)
        certificate = tuple(self.receipts[index] for index in sorted(self.receipts))
        sends = tuple(after._commit_for(node) for node in self.plan.members if node in self.live)
        return Step(after, (Persist(Phase.COMMITTED, receipts=certificate), *sends))

    def _commit_for(self, node: NodeId) -> SendCommit:
        assert self.dealt is not None
        certificate = tuple(self.receipts[index] for index in sorted(self.receipts))
        return SendCommit(node, self.dealt.configuration, certificate)

    def _close(self) -> "Step":
        everybody = len(self.activated) == len(self.plan.seats)
        after = replace(self, phase=Phase.CLOSED if everybody else self.phase, told=True)
        persist = (Persist(Phase.CLOSED),) if everybody else ()
        return Step(after, persist + (() if self.told else (Finished(committed=True),)))

    def _time_passed(self, now: Instant) -> "Step":
        waited = now - self.since
        match self.phase:
            case Phase.PLANNED if waited >= KEYS_SECONDS:
                late = {node for index, node in self.plan.seats if index not in self.keys}
                return self._abort("no_keys", f"no keys for the plan came from {_names(late)}")
            case Phase.DEALT if self.is_enough and waited >= PREPARE_SECONDS:
                return self._commit(now)
            case Phase.DEALT if waited >= GIVE_UP_SECONDS:
                late = {node for index, node in self.plan.seats if index not in self.receipts}
                have = f"{len(self.receipts)} of {self.plan.needed} receipts"
                return self._abort("not_prepared", f"{have}; none from {_names(late)}")
            case Phase.COMMITTED if not self.told and waited >= PREPARE_SECONDS:
                return Step(replace(self, told=True), (Finished(committed=True),))
        return Step(self)

    def _abort(self, code: str, reason: str, culprits: Sequence[str] = ()) -> "Step":
        after = replace(self, phase=Phase.ABORTED, keys={}, dealing=False, told=True)
        sends = tuple(SendAbort(node, reason) for node in self.plan.members)
        finished = Finished(committed=False, code=code, reason=reason, culprits=tuple(culprits))
        return Step(after, (Persist(Phase.ABORTED, reason=reason), *sends, finished))


@dataclass(frozen=True, slots=True)
class Step:
    """The attempt's next state, and what to do, in order."""

    state: Attempt
    do: tuple[Action, ...] = ()

    def then(self, following: "Step") -> "Step":
        return Step(following.state, self.do + following.do)


def _names(nodes: set[NodeId]) -> str:
    return ", ".join(str(node) for node in sorted(nodes)) or "nobody"
