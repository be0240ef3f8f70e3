"""What follows a commit, at the hub: its members take the epoch up, then erase what was before.

Here: who is sent the commit's certificate and the erase certificate, who is lagging, when all is done.
Not here: attempts (`epoch_change`), whether receipts are good (the modules), which epochs there were before.

Nothing of this needs to be durable but what members have proven to have erased: all is asked for again after a
restart, and members give the same receipts again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quorate.ids import Instant, NodeId
from quorate.protocol.epoch_change import NodeDown, NodeUp, TimePassed
from quorate.protocol.quorum import Shard, erase_quorum

ACTIVATE_SECONDS = 2.0
"""How long the command that made the epoch waits for every live member."""

# Events.


@dataclass(frozen=True, slots=True)
class ActivatedCame:
    """A member has taken the epoch up. Receipts by index; none when it has no share in it."""

    sender: NodeId
    receipts: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class ErasedCame:
    """A member has proven that no share of an epoch below this one is left in it."""

    sender: NodeId


Event = ActivatedCame | ErasedCame | NodeUp | NodeDown | TimePassed

# What to do, in order.


@dataclass(frozen=True, slots=True)
class SendCommit:
    to: NodeId


@dataclass(frozen=True, slots=True)
class SendErase:
    """The erase certificate: `activated` receipts of enough indices."""

    to: NodeId
    receipts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TakenUp:
    """Every live member has, or the time for it is over."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Every member holds the epoch, and nobody anything before it."""


Action = SendCommit | SendErase | TakenUp | Settled


@dataclass(frozen=True, slots=True)
class Settling:
    """`owing`: nodes that have not proven yet that they erased the earlier epochs' shares, which they had."""

    seats: tuple[Shard, ...]
    threshold: int
    owing: frozenset[NodeId]
    live: frozenset[NodeId]
    since: Instant
    receipts: Mapping[int, bytes] = field(default_factory=dict)
    lagging: frozenset[NodeId] = frozenset()
    """Members that know of the epoch and have no share of it: they were away when it was made."""
    told: bool = False
    settled: bool = False

    @classmethod
    def begin(
        cls,
        seats: tuple[Shard, ...],
        threshold: int,
        owing: frozenset[NodeId],
        live: frozenset[NodeId],
        now: Instant,
    ) -> "Step":
        begun = cls(seats, threshold, owing, live, now)
        return Step(begun, tuple(SendCommit(node) for node in sorted(begun.involved & live)))

    @classmethod
    def over(cls, seats: tuple[Shard, ...], threshold: int) -> "Settling":
        """Of an epoch that every member held, and nobody anything before it, when the hub last ran."""
        none: frozenset[NodeId] = frozenset()
        return cls(seats, threshold, owing=none, live=none, since=0.0, told=True, settled=True)

    @property
    def involved(self) -> frozenset[NodeId]:
        return self.owing | {node for _, node in self.seats}

    @property
    def certificate(self) -> tuple[bytes, ...]:
        """Empty while too few indices hold the epoch."""
        if len(self.receipts) < erase_quorum(len(self.seats), self.threshold):
            return ()
        return tuple(self.receipts[index] for index in sorted(self.receipts))

    @property
    def wake(self) -> Instant | None:
        return None if self.told else self.since + ACTIVATE_SECONDS

    @property
    def waits_for(self) -> tuple[NodeId, ...]:
        """Who has not taken the epoch up; once enough have, also who has not erased what was before."""
        return tuple(sorted({*self.late, *self.owing})) if self.certificate else self.late

    @property
    def late(self) -> tuple[NodeId, ...]:
        if self.settled:
            return tuple(sorted(self.lagging))
        return tuple(sorted({node for index, node in self.seats if index not in self.receipts}))

    def handle(self, event: Event, now: Instant) -> "Step":
        match event:
            case NodeUp(node) if self.settled:
                return Step(replace(self, live=self.live | {node}))
            case NodeUp(node) if node in self.involved:
                return Step(replace(self, live=self.live | {node}), (SendCommit(node),))
            case NodeDown(node):
                return replace(self, live=self.live - {node})._go_on()
            case ActivatedCame(sender, receipts):
                return self._activated(sender, receipts)
            case ErasedCame(sender):
                return replace(self, owing=self.owing - {sender})._go_on()
            case TimePassed() if not self.told and now - self.since >= ACTIVATE_SECONDS:
                return Step(replace(self, told=True), (TakenUp(),))
        return Step(self)

    def _activated(self, sender: NodeId, receipts: Mapping[int, bytes]) -> "Step":
        seats = {index for index, node in self.seats if node == sender}
        own = {index: receipt for index, receipt in receipts.items() if index in seats}
        lagging = self.lagging - {sender} if own.keys() == seats else self.lagging | {sender}
        after = replace(self, receipts={**self.receipts, **own}, lagging=lagging)
        if not after.certificate:
            return after._go_on()
        if not self.certificate:  # now there are enough: all who owe and are there
            to = tuple(sorted(after.owing & (after.live | {sender}) - after.lagging))
        else:
            to = (sender,) if sender in after.owing - after.lagging else ()
        sends = tuple(SendErase(node, after.certificate) for node in to)
        return Step(after, sends).then(after._go_on())

    def _go_on(self) -> "Step":
        after = self
        do: tuple[Action, ...] = ()
        waited_for = {index for index, node in self.seats if node in self.live - self.lagging}
        if not self.told and self.receipts and waited_for <= self.receipts.keys():
            after, do = replace(after, told=True), (TakenUp(),)
        if not self.settled and not self.waits_for:
            after, do = replace(after, settled=True), (*do, Settled())
        return Step(after, do)


@dataclass(frozen=True, slots=True)
class Step:
    """The next state, and what to do, in order."""

    state: Settling
    do: tuple[Action, ...] = ()

    def then(self, following: "Step") -> "Step":
        return Step(following.state, self.do + following.do)
