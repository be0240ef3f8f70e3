"""Rotation of a domain's key at the hub, once its new version is shared (docs/protocols/key-rotation.md).

Here: who wraps keys anew, who is asked whether it needs the old version still, when that is erased, when all is done.
Not here: how the new version is shared (`epoch_change`), which keys there are, whether a statement is good (the
modules), the database, sockets.

Only the phase is durable, and what members have proven to have dropped: which keys are left the records say, and what
members said they say again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from quorate.ids import Instant, NodeId

BATCH = 16
"""Keys that one member is asked to wrap anew at a time."""
BATCH_SECONDS = 10.0
"""How long it may take; then another is asked."""
AGAIN_SECONDS = 3.0
"""After that time a member that failed is asked again, or one that has not answered."""


class Phase(StrEnum):
    """Up to `abandoned`, in their order. A rotation is given up only before its new version is shared."""

    SHARING = "sharing"
    REWRAPPING = "rewrapping"
    CHECKING = "checking"
    DROPPING = "dropping"
    DONE = "done"
    ABANDONED = "abandoned"

    @property
    def is_over(self) -> bool:
        return self in (Phase.DONE, Phase.ABANDONED)

    @property
    def refuses_old(self) -> bool:
        """From here on no key is wrapped under an old version: members say that they need it no more."""
        return self in (Phase.CHECKING, Phase.DROPPING)


@dataclass(frozen=True, slots=True)
class Facts:
    """How things stand. `keys`: some of those whose token is under an older version; `members`: the nodes in the new
    version's committee, none while it is not known; `owing`: who may have shares of an old one.
    """

    keys: tuple[bytes, ...]
    members: frozenset[NodeId]
    owing: frozenset[NodeId]
    live: frozenset[NodeId]


# Events.


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """A member has done what it could of its batch: these keys; `code`: `ok`, or what kept it from more."""

    sender: NodeId
    keys: tuple[bytes, ...]
    code: str


@dataclass(frozen=True, slots=True)
class CleanCame:
    sender: NodeId
    statement: bytes


@dataclass(frozen=True, slots=True)
class RefusedCame:
    """A member needs an old version still. `wrong`: keys whose new token does not hold the same, by these culprits."""

    sender: NodeId
    wrong: tuple[bytes, ...] = ()
    culprits: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Also: the facts may be others now."""


Event = Rewrapped | CleanCame | RefusedCame | TimePassed

# What to do, in order.


@dataclass(frozen=True, slots=True)
class Persist:
    phase: Phase


@dataclass(frozen=True, slots=True)
class SendRewrap:
    to: NodeId
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SendCheck:
    to: NodeId


@dataclass(frozen=True, slots=True)
class SendDrop:
    """`cleans`: the statement of each member of the new version."""

    to: NodeId
    cleans: tuple[bytes, ...]


Action = Persist | SendRewrap | SendCheck | SendDrop


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation. `worker`: who wraps keys anew, and since when."""

    phase: Phase
    facts: Facts
    worker: tuple[NodeId, Instant] | None = None
    tired: Mapping[NodeId, Instant] = field(default_factory=dict)
    """Who failed at its last batch, and when."""
    wrong: Mapping[bytes, frozenset[NodeId]] = field(default_factory=dict)
    """Keys whose new token is wrong, and by whose doing."""
    cleans: Mapping[NodeId, bytes] = field(default_factory=dict)
    asked: Mapping[NodeId, Instant] = field(default_factory=dict)
    """Who was asked to check or to drop, and when."""

    @property
    def waits_for(self) -> tuple[NodeId, ...]:
        """Who has not done yet what the phase wants."""
        match self.phase:
            case Phase.REWRAPPING:
                return () if self.worker is None else (self.worker[0],)
            case Phase.CHECKING:
                return tuple(sorted(self._unclean))
            case Phase.DROPPING:
                return tuple(sorted(self._unclean | self.facts.owing))
        return ()

    @property
    def _unclean(self) -> frozenset[NodeId]:
        return self.facts.members - self.cleans.keys()

    def handle(self, event: Event, facts: Facts, now: Instant) -> "Step":
        if self.phase.is_over or self.phase is Phase.SHARING or not facts.members:
            return Step(self)
        known = replace(self, facts=facts)
        match event:
            case Rewrapped(sender, keys, code):
                known = known._rewrapped(sender, keys, code, now)
            case CleanCame(sender, statement) if known.phase.refuses_old and sender in facts.members:
                known = replace(known, cleans={**known.cleans, sender: statement})
            case RefusedCame(sender, wrong, culprits) if wrong and sender in facts.members:
                named = {key: known.wrong.get(key, frozenset()) | culprits for key in wrong}
                known = replace(known, wrong={**known.wrong, **named})
        return known._go_on(now)

    def _rewrapped(self, sender: NodeId, keys: tuple[bytes, ...], code: str, now: Instant) -> "Rotation":
        if self.worker is None or self.worker[0] != sender:
            return self  # another has taken over
        wrong = {key: culprits for key, culprits in self.wrong.items() if key not in keys}
        tired = self.tired if code == "ok" else {**self.tired, sender: now}
        return replace(self, worker=None, wrong=wrong, tired=tired)

    def _go_on(self, now: Instant) -> "Step":
        step = Step(self._without_the_late(now))
        due = tuple(dict.fromkeys((*self.facts.keys, *step.state.wrong)))[:BATCH]
        if due and step.state.phase is Phase.CHECKING:
            # What was said of the old tokens says nothing of those to come.
            step = step.then(replace(step.state, cleans={}, asked={})._enter(Phase.REWRAPPING))
        if due:
            step = step.then(step.state._hand_out(due, now))
        elif step.state.phase is Phase.REWRAPPING:
            step = step.then(replace(step.state, worker=None)._enter(Phase.CHECKING))
        if step.state.phase.refuses_old:
            step = step.then(step.state._ask(now))
        return step

    def _without_the_late(self, now: Instant) -> "Rotation":
        if self.worker is None:
            return self
        node, since = self.worker
        if node in self.facts.live and node in self.facts.members and now - since < BATCH_SECONDS:
            return self
        return replace(self, worker=None, tired={**self.tired, node: now})

    def _hand_out(self, keys: tuple[bytes, ...], now: Instant) -> "Step":
        if self.worker is not None:
            return Step(self)
        blamed = frozenset().union(*self.wrong.values()) if self.wrong else frozenset()
        rested = {node for node in self.facts.members if now - self.tired.get(node, -1e9) >= AGAIN_SECONDS}
        able = sorted((rested & self.facts.live) - blamed)
        if not able:
            return Step(self)
        node = able[0]
        return Step(replace(self, worker=(node, now)), (SendRewrap(node, keys),))

    def _ask(self, now: Instant) -> "Step":
        """Everybody whose word is missing, then everybody who has to drop."""
        step = Step(self)
        if not self._unclean and self.phase is Phase.CHECKING:
            step = step.then(replace(self, asked={})._enter(Phase.DROPPING))
        after = step.state
        if after.phase is Phase.DROPPING and not after._unclean and not after.facts.owing:
            return step.then(after._enter(Phase.DONE))
        wanted = after._unclean or (after.facts.owing if after.phase is Phase.DROPPING else frozenset())
        due = sorted(
            node for node in wanted & after.facts.live if now - after.asked.get(node, -1e9) >= AGAIN_SECONDS
        )
        asked = {**after.asked, **dict.fromkeys(due, now)}
        cleans = tuple(after.cleans[node] for node in sorted(after.cleans))
        sends: tuple[Action, ...] = tuple(
            SendCheck(node) if after._unclean else SendDrop(node, cleans) for node in due
        )
        return step.then(Step(replace(after, asked=asked), sends))

    def _enter(self, phase: Phase) -> "Step":
        return Step(replace(self, phase=phase), (Persist(phase),))


@dataclass(frozen=True, slots=True)
class Step:
    """The rotation's next state, and what to do, in order."""

    state: Rotation
    do: tuple[Action, ...] = ()

    def then(self, following: "Step") -> "Step":
        return Step(following.state, self.do + following.do)
