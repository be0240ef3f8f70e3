"""Epoch changes at the hub, up to the commit (docs/protocols/epoch-change.md).

Here: one attempt for one domain: planned → dealt → committed, or aborted; what is durable before what is sent.
Not here: who is right in a dispute (`dispute`), what follows a commit (`epoch_settling`), whether dealings and
receipts are good (the modules), the database, sockets. An attempt that the hub finds in its database after a restart
begins with `resume`.

The commit is one durable record: with it the epoch exists, whatever fails after it. Before it, anything that
goes wrong aborts the attempt and burns its number. A creation and a rotation need every member; another change goes on
without those that are away or refuse, while there are k + z. A complaint aborts it too, whoever is right, and durably
before any dealer is asked to open what it dealt: what is open is of no epoch.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from quorate.ids import HUB, Instant, NodeId
from quorate.protocol.dispute import (
    DISPUTE_SECONDS,
    Case,
    ComplaintCame,
    Convict,
    Disputes,
    Judge,
    Judged,
    OpeningCame,
    SendDispute,
)
from quorate.protocol.quorum import Shard

KEYS_SECONDS = 5.0
"""How long members may take to make their keys for a plan."""
DEAL_SECONDS = 5.0
"""How long dealers may take."""
PREPARE_SECONDS = 2.0
"""How long the commit waits for every live member once there are enough receipts."""
GIVE_UP_SECONDS = 10.0
"""How long enough receipts may take."""


class Phase(StrEnum):
    PLANNED = "planned"
    DEALT = "dealt"
    DISPUTED = "disputed"
    """Aborted, as far as the database goes; only that the dispute has no end yet."""
    COMMITTED = "committed"
    CLOSED = "closed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Plan:
    """A signed plan's public part. `needed`: receipts, k + z or, where a fresh secret is dealt, min(n, 2k - 1);
    `dealers`: who deals which index of the old epoch, None for a fresh secret.
    """

    hash: bytes
    statement: bytes
    charter: bytes
    seats: tuple[Shard, ...]
    needed: int
    dealers: tuple[tuple[NodeId, int | None], ...] = ((HUB, None),)

    @property
    def is_fresh(self) -> bool:
        """A fresh secret is dealt, by the hub or by the members: every member must be there."""
        return all(index is None for _, index in self.dealers)

    @property
    def is_dealt_by_hub(self) -> bool:
        return self.dealing == (HUB,)

    @property
    def members(self) -> tuple[NodeId, ...]:
        return tuple(sorted({node for _, node in self.seats}))

    @property
    def dealing(self) -> tuple[NodeId, ...]:
        return tuple(sorted({node for node, _ in self.dealers}))


Made = tuple[bytes, tuple[bytes, ...]]
"""One dealing, and its sealed sub-shares in the order of the plan's seats; empty where there was no key."""


@dataclass(frozen=True, slots=True)
class Dealt:
    """All dealings, in the plan's order of dealers, and the configuration they came to. `sealed`: each dealing's."""

    dealings: tuple[bytes, ...]
    sealed: tuple[tuple[bytes, ...], ...]
    configuration: bytes
    configuration_hash: bytes


# Events.


@dataclass(frozen=True, slots=True)
class KeysCame:
    sender: NodeId
    plan_hash: bytes
    keys: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class DealingsCame:
    """By a dealer, one for each of its indices in the plan's order."""

    sender: NodeId
    plan_hash: bytes
    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class Configured:
    dealt: Dealt


@dataclass(frozen=True, slots=True)
class PreparedCame:
    """Receipts by index, of the configuration with this hash."""

    sender: NodeId
    configuration_hash: bytes
    receipts: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class RefusedCame:
    """A member's module refused a step, or the hub's own did. Whom a member blames without proof counts for nothing:
    `culprits` are those of the hub's own module.
    """

    sender: NodeId
    plan_hash: bytes
    code: str
    reason: str
    culprits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The operator gives the attempt up."""

    reason: str


@dataclass(frozen=True, slots=True)
class NodeUp:
    node: NodeId


@dataclass(frozen=True, slots=True)
class NodeDown:
    node: NodeId


@dataclass(frozen=True, slots=True)
class TimePassed:
    pass


Event = (
    KeysCame
    | DealingsCame
    | Configured
    | PreparedCame
    | RefusedCame
    | ComplaintCame
    | OpeningCame
    | Judged
    | Cancelled
    | NodeUp
    | NodeDown
    | TimePassed
)

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
    """Have the hub's own module deal to these keys; comes back as `DealingsCame` of the hub."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Configure:
    """Have the hub's module sign what the dealings come to; comes back as `Configured`."""

    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class SendPlan:
    to: NodeId


@dataclass(frozen=True, slots=True)
class SendDeal:
    to: NodeId
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SendPrepare:
    """`sealed`: (own index, position of the dealer, sub-share)."""

    to: NodeId
    configuration: bytes
    dealings: tuple[bytes, ...]
    sealed: tuple[tuple[int, int, bytes], ...]


@dataclass(frozen=True, slots=True)
class SendAbort:
    to: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The attempt is over: committed, or aborted (`reason`)."""

    committed: bool
    code: str = ""
    reason: str = ""
    culprits: tuple[str, ...] = ()


Action = (
    Persist
    | Deal
    | Configure
    | SendPlan
    | SendDeal
    | SendPrepare
    | SendDispute
    | Judge
    | Convict
    | SendAbort
    | Finished
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt; `live` are the members and dealers that can be reached."""

    plan: Plan
    live: frozenset[NodeId]
    phase: Phase
    since: Instant
    """When the phase began, or the dealing."""
    keys: Mapping[int, bytes] = field(default_factory=dict)
    dealing: bool = False
    """The dealers were asked: each deals once for a number, and refuses a second time."""
    made: Mapping[NodeId, tuple[Made, ...]] = field(default_factory=dict)
    dealt: Dealt | None = None
    receipts: Mapping[int, bytes] = field(default_factory=dict)
    out: frozenset[NodeId] = frozenset()
    """Members that refused: the change goes on without them."""
    barred: frozenset[NodeId] = frozenset()
    """Who is convicted, and so counts as away whatever it says."""
    disputes: Disputes = field(default_factory=Disputes)

    @classmethod
    def begin(
        cls, plan: Plan, live: frozenset[NodeId], now: Instant, barred: frozenset[NodeId] = frozenset()
    ) -> "Step":
        involved = frozenset(plan.members) | frozenset(plan.dealing)
        live -= barred
        attempt = cls(plan, live & involved, Phase.PLANNED, now, barred=barred & involved)
        first = Step(attempt, (Persist(Phase.PLANNED),))
        if absent := attempt._missed():
            return first.then(attempt._abort("not_live", f"{_names(absent)} cannot be reached"))
        return Step(attempt, (*first.do, *(SendPlan(node) for node in plan.members if node in live)))

    @classmethod
    def resume(cls, plan: Plan, phase: Phase, dealt: Dealt | None, now: Instant) -> "Step":
        """After a restart of the hub: what was not dealt is lost with the polynomials, receipts are asked for again."""
        attempt = cls(plan, frozenset(), phase, now, dealt=dealt)
        if phase is Phase.PLANNED:
            return attempt._abort("restarted", "the hub restarted before the dealings had come")
        return Step(attempt)

    @property
    def wake(self) -> Instant | None:
        match self.phase:
            case Phase.PLANNED if self.dealing and not self.waits_for:
                return None  # the hub's own module is at work
            case Phase.PLANNED:
                return self.since + (DEAL_SECONDS if self.dealing else KEYS_SECONDS)
            case Phase.DEALT if self.is_enough:
                return self.since + PREPARE_SECONDS
            case Phase.DEALT:
                return self.since + GIVE_UP_SECONDS
            case Phase.DISPUTED:
                return self.since + DISPUTE_SECONDS
        return None

    @property
    def is_enough(self) -> bool:
        return len(self.receipts) >= self.plan.needed

    @property
    def waits_for(self) -> tuple[NodeId, ...]:
        """Who has not done yet what the phase wants."""
        match self.phase:
            case Phase.PLANNED if self.dealing:
                return tuple(node for node in self.plan.dealing if node not in self.made)
            case Phase.PLANNED:
                return _nodes(self.plan.seats, self._wanted - self.keys.keys())
            case Phase.DEALT:
                return _nodes(self.plan.seats, self._sealed_for() - self.receipts.keys())
            case Phase.DISPUTED:
                return self.disputes.waits_for
        return ()

    def handle(self, event: Event, now: Instant) -> "Step":
        if self.phase is Phase.DISPUTED:
            return self._in_dispute(event, now)
        if self.phase not in (Phase.PLANNED, Phase.DEALT):
            return Step(self)
        match event:
            case NodeUp(node):
                return self._node_up(node)
            case NodeDown(node):
                return replace(self, live=self.live - {node})._go_on(now)
            case KeysCame(sender, plan_hash, keys) if self._expects_keys(sender, plan_hash):
                own = {i: key for i, key in keys.items() if (i, sender) in self.plan.seats}
                return replace(self, keys={**self.keys, **own})._go_on(now)
            case DealingsCame(sender, plan_hash, made) if self._expects_dealings(sender, plan_hash):
                return replace(self, made={**self.made, sender: made})._configure(sender)
            case Configured(dealt) if self.phase is Phase.PLANNED:
                return self._configured(dealt, now)
            case PreparedCame(sender, configuration, receipts) if self._is_of(configuration):
                own = {i: receipt for i, receipt in receipts.items() if (i, sender) in self.plan.seats}
                return replace(self, receipts={**self.receipts, **own})._go_on(now)
            case RefusedCame(sender, plan_hash, code, reason, culprits) if plan_hash == self.plan.hash:
                return self._refused(sender, code, reason, culprits, now)
            case ComplaintCame(plan_hash, case) if self._may_complain(plan_hash, case):
                return self._complained(case, now)
            case Cancelled(reason):
                return self._abort("cancelled", reason)
            case TimePassed():
                return self._time_passed(now)
        return Step(self)  # late, repeated, or of another attempt

    def _expects_keys(self, sender: NodeId, plan_hash: bytes) -> bool:
        expected = self.phase is Phase.PLANNED and not self.dealing and plan_hash == self.plan.hash
        return expected and sender not in self.barred

    def _expects_dealings(self, sender: NodeId, plan_hash: bytes) -> bool:
        mine = sender in self.plan.dealing and sender not in self.made
        return self.phase is Phase.PLANNED and self.dealing and mine and plan_hash == self.plan.hash

    def _is_of(self, configuration_hash: bytes) -> bool:
        return (
            self.phase is Phase.DEALT
            and self.dealt is not None
            and self.dealt.configuration_hash == configuration_hash
        )

    @property
    def _wanted(self) -> frozenset[int]:
        """The indices of whoever is there and has not refused."""
        present = self.live - self.out
        return frozenset(index for index, node in self.plan.seats if node in present)

    def _missed(self) -> set[NodeId]:
        """Who is away, if it cannot go on without."""
        there = self.live | {HUB}
        dealers = {node for node in self.plan.dealing if node not in there or node in self.out}
        if dealers:
            return dealers
        if len(self._wanted) < (len(self.plan.seats) if self.plan.is_fresh else self.plan.needed):
            return set(self.plan.members) - (self.live - self.out)
        return set()

    def _go_on(self, now: Instant) -> "Step":
        """Goes to the next phase when everybody who can has done its part."""
        if self.phase is Phase.PLANNED and not self.dealing:
            if absent := self._missed():
                return Step(self) if self.plan.is_fresh else self._abort("not_live", f"lost {_names(absent)}")
            return self._deal(now) if self._wanted <= self.keys.keys() else Step(self)
        if self.phase is Phase.DEALT and len(self._possible()) < self.plan.needed:
            have = f"{len(self._possible())} of {self.plan.needed} receipts can come"
            return self._abort("not_prepared", f"{have}; {_names(self.out)} refused")
        if self.phase is Phase.DEALT and self.is_enough:
            waited_for = self._sealed_for() & self._wanted
            return self._commit(now) if waited_for <= self.receipts.keys() else Step(self)
        return Step(self)

    def _deal(self, now: Instant) -> "Step":
        keys = tuple(self.keys[index] for index, _ in self.plan.seats if index in self.keys)
        after = replace(self, dealing=True, since=now)
        if self.plan.is_dealt_by_hub:
            return Step(after, (Deal(keys),))
        return Step(after, tuple(SendDeal(node, keys) for node in self.plan.dealing))

    def _configure(self, sender: NodeId) -> "Step":
        owed = sum(node == sender for node, _ in self.plan.dealers)
        fits = all(len(sealed) == len(self.plan.seats) for _, sealed in self.made[sender])
        if len(self.made[sender]) != owed or not fits:
            return self._abort(
                "bad_dealing", f"{sender} sent something else than its dealings", [str(sender)]
            )
        if any(node not in self.made for node in self.plan.dealing):
            return Step(self)
        left = {node: list(made) for node, made in self.made.items()}
        return Step(self, (Configure(tuple(left[node].pop(0) for node, _ in self.plan.dealers)),))

    def _configured(self, dealt: Dealt, now: Instant) -> "Step":
        after = replace(self, phase=Phase.DEALT, since=now, dealt=dealt, keys={}, made={}, dealing=False)
        nodes = _nodes(self.plan.seats, after._sealed_for())
        prepares = tuple(after._prepare(node) for node in nodes)
        return Step(after, (Persist(Phase.DEALT, dealt=dealt), *prepares))

    def _sealed_for(self) -> frozenset[int]:
        """The indices that have a sub-share of each dealing."""
        assert self.dealt is not None
        seats = enumerate(self.plan.seats)
        return frozenset(i for at, (i, _) in seats if all(sealed[at] for sealed in self.dealt.sealed))

    def _possible(self) -> frozenset[int]:
        """The indices of which a receipt is there, or may come."""
        refused = {index for index, node in self.plan.seats if node in self.out}
        return frozenset(self.receipts) | (self._sealed_for() - refused)

    def _prepare(self, node: NodeId) -> SendPrepare:
        assert self.dealt is not None
        own = tuple(
            (index, position, sealed[at])
            for at, (index, holder) in enumerate(self.plan.seats)
            if holder == node
            for position, sealed in enumerate(self.dealt.sealed)
        )
        return SendPrepare(node, self.dealt.configuration, self.dealt.dealings, own)

    def _node_up(self, node: NodeId) -> "Step":
        if node in self.barred or (node not in self.plan.members and node not in self.plan.dealing):
            return Step(self)
        after = replace(self, live=self.live | {node})
        held = {index for index, holder in self.plan.seats if holder == node}
        if self.phase is Phase.PLANNED and not self.dealing and not held <= self.keys.keys():
            return Step(after, (SendPlan(node),))
        if self.phase is Phase.DEALT and held & self._sealed_for() - self.receipts.keys():
            return Step(after, (after._prepare(node),))
        return Step(after)

    def _refused(
        self, sender: NodeId, code: str, reason: str, culprits: Sequence[str], now: Instant
    ) -> "Step":
        """A fresh secret needs each, another change its dealers."""
        if sender != HUB and sender not in self.plan.members and sender not in self.plan.dealing:
            return Step(self)
        after = replace(self, out=self.out | {sender})
        needed = self.plan.is_fresh or sender == HUB or (self.phase is Phase.PLANNED and after._missed())
        if needed:
            return self._abort(code, f"{sender}: {reason}", culprits if sender == HUB else ())
        return after._go_on(now)

    def _may_complain(self, plan_hash: bytes, case: Case) -> bool:
        """Of a dealing that it was sent a part of; until the commit, which nothing undoes."""
        mine = (case.index, case.accuser) in self.plan.seats and case.dealer in self.plan.dealing
        is_dealt = self.phase in (Phase.DEALT, Phase.DISPUTED) and plan_hash == self.plan.hash
        return is_dealt and mine and case.index in self._sealed_for()

    def _complained(self, case: Case, now: Instant) -> "Step":
        """The attempt is dead, durably, before anything is opened: no sub-share of a live epoch ever is."""
        what = f"{case.accuser} complains of what {case.dealer} dealt to it"
        if case.dealer == HUB:
            # Its module has kept nothing, for that would be the key.
            return self._abort("disputed", f"{what}; nobody can tell who of them is wrong")
        disputes, sends = Disputes().complained(case)
        after = replace(self, phase=Phase.DISPUTED, since=now, disputes=disputes)
        return Step(after, (Persist(Phase.ABORTED, reason=what), *sends))

    def _in_dispute(self, event: Event, now: Instant) -> "Step":
        do: tuple[Action, ...] = ()
        disputes, live = self.disputes, self.live
        match event:
            case ComplaintCame(plan_hash, case) if self._may_complain(plan_hash, case):
                disputes, do = disputes.complained(case)
            case NodeUp(node):
                live, do = live | {node}, disputes.back(node)
            case NodeDown(node):
                live -= {node}
            case OpeningCame() if event.plan_hash == self.plan.hash:
                do = disputes.opened(event)
            case Judged():
                disputes, do = disputes.judged(event)
            case TimePassed() if now >= self.since + DISPUTE_SECONDS:
                disputes, do = disputes.too_late()
        after = replace(self, disputes=disputes, live=live)
        if disputes.waits_for:
            return Step(after, do)
        return Step(after, do).then(after._over("disputed", disputes.reason, disputes.culprits))

    def _commit(self, now: Instant) -> "Step":
        after = replace(self, phase=Phase.COMMITTED, since=now)
        certificate = tuple(self.receipts[index] for index in sorted(self.receipts))
        return Step(after, (Persist(Phase.COMMITTED, receipts=certificate), Finished(committed=True)))

    def _time_passed(self, now: Instant) -> "Step":
        waited, late = now - self.since, _names(self.waits_for)
        match self.phase:
            case Phase.PLANNED if self.dealing and self.waits_for and waited >= DEAL_SECONDS:
                return self._abort("no_dealing", f"no dealing came from {late}")
            case Phase.PLANNED if not self.dealing and waited >= KEYS_SECONDS:
                if not self.plan.is_fresh and len(self.keys) >= self.plan.needed:
                    return self._deal(now)
                return self._abort("no_keys", f"no keys for the plan came from {late}")
            case Phase.DEALT if self.is_enough and waited >= PREPARE_SECONDS:
                return self._commit(now)
            case Phase.DEALT if waited >= GIVE_UP_SECONDS:
                have = f"{len(self.receipts)} of {self.plan.needed} receipts"
                return self._abort("not_prepared", f"{have}; none from {late}")
        return Step(self)

    def _abort(self, code: str, reason: str, culprits: Sequence[str] = ()) -> "Step":
        over = self._over(code, reason, culprits)
        return Step(over.state, (Persist(Phase.ABORTED, reason=reason), *over.do))

    def _over(self, code: str, reason: str, culprits: Sequence[str]) -> "Step":
        """Tells everybody that an attempt, aborted in the database, has come to its end."""
        after = replace(self, phase=Phase.ABORTED, keys={}, made={}, dealing=False)
        told = sorted({*self.plan.members, *self.plan.dealing} - {HUB})
        sends = tuple(SendAbort(node, reason) for node in told)
        finished = Finished(committed=False, code=code, reason=reason, culprits=tuple(culprits))
        return Step(after, (*sends, finished))


@dataclass(frozen=True, slots=True)
class Step:
    """The attempt's next state, and what to do, in order."""

    state: Attempt
    do: tuple[Action, ...] = ()

    def then(self, following: "Step") -> "Step":
        return Step(following.state, self.do + following.do)


def _nodes(seats: Sequence[Shard], indices: frozenset[int]) -> tuple[NodeId, ...]:
    return tuple(sorted({node for index, node in seats if index in indices}))


def _names(nodes: Collection[NodeId]) -> str:
    return ", ".join(str(node) for node in sorted(nodes)) or "nobody"
