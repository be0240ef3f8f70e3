"""The requester's side of sessions of one domain (docs/protocols/messages.md, "Sessions").

Here: concurrent needs share one session; one session is open at a time; when it ends, and what everybody is
told. Nobody waits in silence: each waiter is served or gets an `Unavailable` before `TOTAL` seconds are over.
Not here: which holders are called (the hub), what a share is and whether an answer is good (the module, whose
answers come back as events), bytes on a wire.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from quorate.ids import HUB, DomainId, Instant, NodeId, SessionId

ATTEMPT = 1.0
"""Seconds that one session may take."""
TOTAL = 1.6
"""Seconds from a session's opening to its waiters' answer, with its new starts in other epochs."""

STALE_EPOCH = "wrong_epoch"

Waiter = int
Called = tuple[int, NodeId]
"""A shard that takes part: its index and its node."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why a need was not met. `code`: `hub_down`, `expired`, or the code of the hub's or module's refusal."""

    code: str
    detail: str


# Events.


@dataclass(frozen=True, slots=True)
class Needed:
    """A lease is needed; `waiter` is None for a renewal in the background."""

    waiter: Waiter | None


@dataclass(frozen=True, slots=True)
class Opened:
    """The module opened a session; `request` is its signed request."""

    session: SessionId
    request: bytes


@dataclass(frozen=True, slots=True)
class OpeningFailed:
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant says who was called: at first, and again after a substitute."""

    session: SessionId
    called: tuple[Called, ...]


@dataclass(frozen=True, slots=True)
class AnswerCame:
    """`index`: as the answer says, which the module has yet to verify."""

    session: SessionId
    sender: NodeId
    index: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """The module took an answer. `closed`: its last word on the session, once the domain is under a lease."""

    session: SessionId
    have: int
    need: int
    culprits: tuple[Called, ...] = ()
    closed: bytes | None = None


@dataclass(frozen=True, slots=True)
class AnswerRejected:
    """The module did not take an answer; `culprits` are the nodes that it blames."""

    session: SessionId
    code: str
    culprits: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The hub will not, or cannot, bring a quorum together."""

    session: SessionId
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The module forgot a session, and this is its last word on it."""

    session: SessionId
    closed: bytes


@dataclass(frozen=True, slots=True)
class EpochChanged:
    """This node's module has taken up another epoch."""


@dataclass(frozen=True, slots=True)
class HubLost:
    pass


@dataclass(frozen=True, slots=True)
class TimePassed:
    pass


Event = (
    Needed
    | Opened
    | OpeningFailed
    | Granted
    | AnswerCame
    | Received
    | AnswerRejected
    | Refused
    | Abandoned
    | EpochChanged
    | HubLost
    | TimePassed
)

# What to do, in order.


@dataclass(frozen=True, slots=True)
class Open:
    """Ask the module for a session; comes back as `Opened` or `OpeningFailed`."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Ask the module to take an answer; comes back as `Received` or `AnswerRejected`."""

    session: SessionId
    answer: bytes


@dataclass(frozen=True, slots=True)
class Abandon:
    """Ask the module to forget a session; comes back as `Abandoned`."""

    session: SessionId
    outcome: str


@dataclass(frozen=True, slots=True)
class Send:
    to: NodeId
    kind: str
    body: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A session ended; serve its waiters. `failure` is None when the domain is under a lease now."""

    session: SessionId | None
    waiters: tuple[Waiter, ...]
    failure: Unavailable | None
    culprits: tuple[Called, ...] = ()


Action = Open | Receive | Abandon | Send | Ended


@dataclass(frozen=True, slots=True)
class Attempt:
    """One session under way; `session` is None until the module has opened it."""

    started: Instant
    deadline: Instant
    asked: Instant
    """When the hub was asked; before that, when this session was wanted."""
    waiters: tuple[Waiter, ...] = ()
    session: SessionId | None = None
    called: frozenset[Called] = frozenset()
    holders: frozenset[NodeId] = frozenset()
    """Whom the last word must reach: everybody called, and everybody who answered."""
    have: int = 0
    need: int = 0
    culprits: tuple[Called, ...] = ()
    answered: tuple[tuple[int, int], ...] = ()
    """When answers came: index, microseconds since `asked`."""
    stale: bool = False
    """The epoch is over: it begins again once this node's module is in the next."""


@dataclass(frozen=True, slots=True)
class Past:
    """A session that ended: a holder of whom a grant tells only now still gets the last word."""

    holders: frozenset[NodeId]
    closed: bytes | None = None
    answered: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Requester:
    """Sessions of one domain in one node."""

    domain: DomainId
    attempt: Attempt | None = None
    past: Mapping[SessionId, Past] = field(default_factory=dict)
    """The last few, oldest first."""

    @property
    def wake(self) -> Instant | None:
        """When `TimePassed` is due."""
        return None if self.attempt is None else self.attempt.deadline

    def handle(self, event: Event, now: Instant) -> "Step":
        match event:
            case Needed(waiter):
                return self._needed(waiter, now)
            case Abandoned(session, closed):
                return self._last_word(session, closed)
            case Granted(session, called) if self._is_past(session):
                return self._granted_late(session, called)
        if self.attempt is None:
            return Step(self)
        match event:
            case HubLost():
                return self._fail("refused", Unavailable("hub_down", "the hub cannot be reached"))
            case EpochChanged():
                return self._again(now)
            case TimePassed() if now >= self.attempt.deadline:
                return self._fail("expired", self._too_late(self.attempt))
            case Opened(session, request) if self.attempt.session is None:
                return self._opened(self.attempt, session, request, now)
            case OpeningFailed(code, detail) if self.attempt.session is None:
                return self._fail("refused", Unavailable(code, detail))
            case TimePassed() | Opened() | OpeningFailed():
                return Step(self)
        if event.session != self.attempt.session:
            return Step(self)  # of a session that is over, or that never was ours (attack N55)
        return self._under_way(self.attempt, event, now)

    def _under_way(
        self,
        attempt: Attempt,
        event: Granted | AnswerCame | Received | AnswerRejected | Refused,
        now: Instant,
    ) -> "Step":
        match event:
            case Granted(_, called):
                holders = attempt.holders | {node for _, node in called}
                return self._with(replace(attempt, called=attempt.called | set(called), holders=holders))
            case AnswerCame(session, sender, index, answer):
                came = (index, round((now - attempt.asked) * 1e6))
                heard = replace(
                    attempt, holders=attempt.holders | {sender}, answered=(*attempt.answered, came)
                )
                return self._with(heard, Receive(session, answer))
            case Received():
                return self._received(attempt, event)
            case AnswerRejected(session, code, culprits):
                if code == "no_session":
                    return self._fail("expired", self._too_late(attempt))
                blamed = tuple(sorted(c for c in attempt.called if c[1] in culprits))
                return self._blame(attempt, session, blamed)
            case Refused(_, code, reason):
                if code == STALE_EPOCH:
                    return self._stale(attempt)
                return self._fail("refused", Unavailable(code, reason))

    def _needed(self, waiter: Waiter | None, now: Instant) -> "Step":
        waiters = () if waiter is None else (waiter,)
        if self.attempt is not None:
            return self._with(replace(self.attempt, waiters=self.attempt.waiters + waiters))
        return self._with(Attempt(started=now, deadline=now + ATTEMPT, asked=now, waiters=waiters), Open())

    def _opened(self, attempt: Attempt, session: SessionId, request: bytes, now: Instant) -> "Step":
        asked = replace(attempt, session=session, asked=now)
        return self._with(asked, Send(HUB, "session/request", (request,)))

    def _received(self, attempt: Attempt, got: Received) -> "Step":
        if got.closed is None:
            return self._blame(replace(attempt, have=got.have, need=got.need), got.session, got.culprits)
        ended = Ended(got.session, attempt.waiters, None, attempt.culprits + got.culprits)
        past = Past(attempt.holders, got.closed, attempt.answered)
        return Step(self._over(got.session, past), (*_last_words(past, got.closed), ended))

    def _blame(self, attempt: Attempt, session: SessionId, culprits: tuple[Called, ...]) -> "Step":
        """Asks the hub for substitutes; the session goes on."""
        fresh = tuple(c for c in culprits if c not in attempt.culprits)
        if not fresh:
            return self._with(attempt)
        listed = [[index, node.value] for index, node in fresh]
        return self._with(
            replace(attempt, culprits=attempt.culprits + fresh),
            Send(HUB, "session/culprits", (session.value, listed)),
        )

    def _stale(self, attempt: Attempt) -> "Step":
        """Its session is over; what needed it waits for the next epoch, until its deadline."""
        assert attempt.session is not None
        again = Attempt(
            started=attempt.started,
            deadline=attempt.deadline,
            asked=attempt.asked,
            waiters=attempt.waiters,
            culprits=attempt.culprits,
            stale=True,
        )
        over = self._over(attempt.session, Past(attempt.holders, answered=attempt.answered))
        return Step(replace(over, attempt=again), (Abandon(attempt.session, "refused"),))

    def _again(self, now: Instant) -> "Step":
        """This node's module is in a new epoch, and has forgotten its sessions in the old one."""
        assert self.attempt is not None
        over = Step(self) if self.attempt.session is None else self._stale(self.attempt)
        attempt = over.state.attempt
        if attempt is None or not attempt.stale:
            return over
        deadline = min(now + ATTEMPT, attempt.started + TOTAL)
        again = replace(attempt, stale=False, asked=now, deadline=deadline)
        return Step(replace(over.state, attempt=again), (*over.do, Open()))

    def _fail(self, outcome: str, why: Unavailable) -> "Step":
        attempt = self.attempt
        assert attempt is not None
        ended = Ended(attempt.session, attempt.waiters, why, attempt.culprits)
        if attempt.session is None:
            return Step(replace(self, attempt=None), (ended,))
        over = self._over(attempt.session, Past(attempt.holders, answered=attempt.answered))
        return Step(over, (Abandon(attempt.session, outcome), ended))

    def _last_word(self, session: SessionId, closed: bytes) -> "Step":
        past = self.past.get(session)
        if past is None or past.closed is not None:
            return Step(self)
        known = {**self.past, session: replace(past, closed=closed)}
        return Step(replace(self, past=known), _last_words(past, closed))

    def _granted_late(self, session: SessionId, called: tuple[Called, ...]) -> "Step":
        past = self.past[session]
        fresh = {node for _, node in called} - past.holders
        known = {**self.past, session: replace(past, holders=past.holders | fresh)}
        tell = () if past.closed is None else _tell(fresh, past.closed)
        return Step(replace(self, past=known), tell)

    def _is_past(self, session: SessionId) -> bool:
        return session in self.past

    def _over(self, session: SessionId, past: Past) -> "Requester":
        kept = list(self.past.items())[-7:]
        return replace(self, attempt=None, past=dict([*kept, (session, past)]))

    def _with(self, attempt: Attempt, *do: Action) -> "Step":
        return Step(replace(self, attempt=attempt), do)

    def _too_late(self, attempt: Attempt) -> Unavailable:
        if attempt.stale:
            return Unavailable(
                STALE_EPOCH, f"another epoch of {self.domain} is current, and did not come here"
            )
        if attempt.need:
            arrived = f"{attempt.have} of {attempt.need} shards of {self.domain}"
            return Unavailable("expired", f"{arrived} arrived before the deadline")
        return Unavailable("expired", f"no shard of {self.domain} arrived before the deadline")


@dataclass(frozen=True, slots=True)
class Step:
    """The machine's next state, and what to do, in order."""

    state: Requester
    do: tuple[Action, ...] = ()


def _last_words(past: Past, closed: bytes) -> tuple[Send, ...]:
    """To the hub first: it tells it at the same time when answers came."""
    answered = [list(came) for came in past.answered]
    return (Send(HUB, "session/ended", (closed, answered)), *_tell(past.holders, closed))


def _tell(whom: Iterable[NodeId], closed: bytes) -> tuple[Send, ...]:
    return tuple(Send(to, "session/closed", (closed,)) for to in sorted(whom))
