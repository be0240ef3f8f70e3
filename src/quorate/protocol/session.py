"""The hub's side of sessions, over all domains (docs/protocols/sessions.md).

Here: whole quorums are reserved at once or not at all; a fair queue; substitutes; ends.
Not here: fencing numbers (`fences`), signatures and counts (the modules), bytes on a wire, what is written to
the audit log.

The machine changes in place: with thousands of requests in its queue, a new value for each event would cost
as many copies. It is still sans-I/O: events and `now` in, actions out, in order, the same for the same input.

A requester answers for its session: the hub does not see answers, only the requester's `closed`. So a session
that is still open `SUBSTITUTE` seconds after its grant gets one more holder, and another one each time again.
Before that, one that takes much longer than its holders usually do gets one more where it costs nobody anything:
hedging (Dean and Barroso, "The Tail at Scale", 2013).
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice

from quorate.ids import DomainId, Instant, NodeId, SessionId
from quorate.protocol.fences import Fence, Fences
from quorate.protocol.quorum import Holder, Shard, rank
from quorate.protocol.session_events import (
    Action,
    ClosedCame,
    CulpritsCame,
    DomainIs,
    Ended,
    Event,
    Grant,
    NodeDown,
    NodeUp,
    RefusalCame,
    Refuse,
    RequestCame,
    TimePassed,
)

DEADLINE = 1.0
"""Seconds from a request to its end, time in the queue included."""
SUBSTITUTE = 0.150
"""Seconds of silence after which one more holder is called."""
HEDGE_FACTOR = 3.0
"""How many times the usual latency of the slowest holder called, until one more is called: once, if one is free and
nobody queues."""
HEDGE_LEAST = 0.010
"""Seconds; the shortest time until a hedge."""
SLOT = 1.2
"""Seconds that a module holds a slot when it hears nothing more (the core's SLOT_TTL)."""
AGAIN = 0.010
"""Seconds until a shard whose slot was not free yet is called once more."""
PER_REQUESTER = 32
"""Requests of one node, queued and granted."""
IN_ALL = 4096
JUMPS = 3
"""How often one session follows what a holder reports of its fence, before it asks another."""
REMEMBERED = 1024
"""Sessions that ended, so that a repeated request is known."""


@dataclass(slots=True)
class Session:
    """One request that is queued or granted."""

    id: SessionId
    requester: NodeId
    domain: DomainId
    request: bytes
    asked: Instant
    called: dict[int, NodeId] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    culprits: set[int] = field(default_factory=set)
    again: dict[int, Instant] = field(default_factory=dict)
    """Shards to be called once more, and when."""
    jumps: Counter[int] = field(default_factory=Counter)
    substitute_at: Instant | None = None
    """None while queued."""
    hedge_at: Instant | None = None
    owed: int = 0
    """Substitutes that are wanted and could not be called yet."""

    @property
    def deadline(self) -> Instant:
        return self.asked + DEADLINE

    def is_out(self, index: int) -> bool:
        """It will not serve this session any more, and a substitute for it was asked or is owed."""
        return index in self.refused or index in self.culprits

    @property
    def spent(self) -> set[int]:
        return self.called.keys() | self.refused.keys() | self.culprits


class Sessions:
    """`term`: of this run of the hub. `dropped` counts, by reason, the events that changed nothing."""

    def __init__(self, term: int) -> None:
        self.dropped: Counter[str] = Counter()
        self._domains: dict[DomainId, DomainIs] = {}
        self._nodes: dict[NodeId, NodeUp] = {}
        self._latency: dict[NodeId, float] = {}
        self._sessions: dict[SessionId, Session] = {}
        """In the order of their requests, and so of their deadlines."""
        self._granted: dict[SessionId, Session] = {}
        self._queues: dict[DomainId, OrderedDict[NodeId, deque[SessionId]]] = {}
        self._of_requester: Counter[NodeId] = Counter()
        self._taken: dict[tuple[DomainId, int], tuple[SessionId, Instant]] = {}
        self._fences = Fences(term)
        self._ended: OrderedDict[SessionId, NodeId] = OrderedDict()

    def handle(self, event: Event, now: Instant) -> list[Action]:
        match event:
            case DomainIs():
                return self._domain_is(event, now)
            case NodeUp():
                return self._node_up(event, now)
            case NodeDown(node):
                return self._node_down(node, now)
            case RequestCame():
                return self._requested(event, now)
            case RefusalCame():
                return self._refused(event, now)
            case CulpritsCame(sender, session, culprits):
                return self._blamed(sender, session, culprits, now)
            case ClosedCame():
                return self._closed(event, now)
            case TimePassed():
                return self._time_passed(now)

    @property
    def wake(self) -> Instant | None:
        """When `TimePassed` is due. Looks at sessions that are granted, not at all that wait."""
        times = [session.deadline for session in islice(self._sessions.values(), 1)]
        for session in self._granted.values():
            times.extend(session.again.values())
            times.extend(at for at in (session.substitute_at, session.hedge_at) if at is not None)
        if self._queues or any(session.owed for session in self._granted.values()):
            times.extend(until for _, until in self._taken.values())
        return min(times, default=None)

    @property
    def queued(self) -> int:
        return sum(len(ids) for queue in self._queues.values() for ids in queue.values())

    def live(self, domain: DomainId) -> int:
        """How many of the domain's shards could be called now, free or not."""
        return len(self._live_shards(self._domains[domain])) if domain in self._domains else 0

    # Who is there.

    def _domain_is(self, event: DomainIs, now: Instant) -> list[Action]:
        known = self._domains.get(event.domain)
        if known is not None and event.epoch < known.epoch:
            self.dropped["stale_epoch"] += 1
            return []
        self._domains[event.domain] = event
        if known is None or (event.epoch, event.configuration) == (known.epoch, known.configuration):
            return []
        for index, _ in known.shards:  # modules count the fences of a new epoch's shards from the beginning
            self._fences.forget((event.domain, index))
        old = [s for s in self._sessions.values() if s.domain == event.domain]
        actions: list[Action] = []
        for session in old:  # of an earlier epoch; shards of two never mix
            actions += self._refuse(session, "wrong_epoch", "another epoch is current now", now)
        return actions

    def _node_up(self, event: NodeUp, now: Instant) -> list[Action]:
        before = self._nodes.get(event.node)
        self._nodes[event.node] = event
        same = before is not None and (before.ready is event.ready or before.ready == event.ready)
        return [] if same else self._serve(now)

    def _node_down(self, node: NodeId, now: Instant) -> list[Action]:
        if self._nodes.pop(node, None) is None:
            return []
        actions: list[Action] = []
        for session in list(self._sessions.values()):
            if session.requester == node:
                actions += self._end(session, "expired", "its requester is gone", now)
                continue
            for index, holder in session.called.items():
                if holder == node and not session.is_out(index):
                    session.refused[index] = "node_down"
                    session.again.pop(index, None)
                    session.owed += 1
        return actions + self._serve(now)

    def _learn_latency(self, session: Session, answered: tuple[tuple[int, float], ...]) -> None:
        for index, seconds in answered:
            node = session.called.get(index)
            if node is not None and 0 <= seconds <= DEADLINE:
                self._latency[node] = 0.8 * self._latency.get(node, seconds) + 0.2 * seconds

    # What comes in.

    def _requested(self, event: RequestCame, now: Instant) -> list[Action]:
        if event.session in self._sessions or event.session in self._ended:
            self.dropped["replayed"] += 1
            return []

        def refuse(code: str, reason: str) -> list[Action]:
            self._remember(event.session, event.sender)
            ended = Ended(event.session, event.domain, event.sender, "refused", code, (), (), (), 0.0)
            return [Refuse(event.session, event.sender, code, reason), ended]

        domain = self._domains.get(event.domain)
        if domain is None:
            return refuse("unknown_domain", f"there is no domain {event.domain}")
        if all(node != event.sender for _, node in domain.shards):
            return refuse("not_a_member", f"{event.sender} is no member of {event.domain}")
        if (event.epoch, event.configuration) != (domain.epoch, domain.configuration):
            return refuse("wrong_epoch", f"epoch {domain.epoch} of {event.domain} is current")
        if self._of_requester[event.sender] >= PER_REQUESTER or len(self._sessions) >= IN_ALL:
            return refuse("queue_full", "too many sessions wait; try again")
        session = Session(event.session, event.sender, event.domain, event.request, now)
        self._sessions[session.id] = session
        self._of_requester[session.requester] += 1
        is_first = event.domain not in self._queues
        queue = self._queues.setdefault(event.domain, OrderedDict())
        queue.setdefault(event.sender, deque()).append(session.id)
        return self._pump(event.domain, now) if is_first else []  # else its head waits, and nothing was freed

    def _refused(self, event: RefusalCame, now: Instant) -> list[Action]:
        session = self._sessions.get(event.session)
        if (
            session is None
            or session.domain != event.domain
            or session.called.get(event.index) != event.sender
        ):
            self.dropped["no_session"] += 1
            return []
        if session.is_out(event.index):
            self.dropped["repeated"] += 1
            return []
        shard = (session.domain, event.index)
        if event.reason == "slot_busy":
            session.again[event.index] = now + AGAIN
            return []
        if event.reason == "stale_fence" and self._follow(session, shard, event.fence):
            session.again[event.index] = now
            return self._call_again(session, now)
        self._free(session, event.index)
        session.refused[event.index] = event.reason
        session.again.pop(event.index, None)
        session.owed += 1
        return self._serve(now)

    def _follow(self, session: Session, shard: tuple[DomainId, int], seen: Fence) -> bool:
        """Whether the holder is to be called again. It is not if it lies, or no jump ever satisfies it."""
        session.jumps[shard[1]] += 1
        if session.jumps[shard[1]] > JUMPS:
            self.dropped["fence_again"] += 1
            return False
        if (problem := self._fences.follow(shard, seen)) is not None:
            self.dropped[problem] += 1
            return False
        return True

    def _blamed(
        self, sender: NodeId, session_id: SessionId, culprits: tuple[Shard, ...], now: Instant
    ) -> list[Action]:
        session = self._sessions.get(session_id)
        if session is None or session.requester != sender:
            self.dropped["no_session"] += 1
            return []
        for index, node in culprits:
            if session.called.get(index) != node or index in session.culprits:
                continue
            session.owed += not session.is_out(index)
            session.culprits.add(index)
            session.again.pop(index, None)
        return self._serve(now)

    def _closed(self, event: ClosedCame, now: Instant) -> list[Action]:
        session = self._sessions.get(event.session)
        if session is None and self._ended.get(event.session) == event.sender:
            self._free_all(event.session)  # we had ended it; only now are its slots free
            return self._serve(now)
        if session is None or session.requester != event.sender:
            self.dropped["no_session"] += 1
            return []
        self._learn_latency(session, event.answered)
        session.culprits.update(index for index in event.culprits if index in session.called)
        self._free_all(session.id)
        reason = "" if event.outcome == "combined" else "closed by its requester"
        return self._end(session, event.outcome, reason, now) + self._serve(now)

    def _time_passed(self, now: Instant) -> list[Action]:
        actions: list[Action] = []
        for shard, (_, until) in list(self._taken.items()):
            if now >= until:
                del self._taken[shard]
        while (first := next(iter(self._sessions.values()), None)) is not None and now >= first.deadline:
            if first.substitute_at is None:
                reason = f"no holders were free within {DEADLINE:g} s"
            else:
                reason = f"not closed within {DEADLINE:g} s ({len(first.called)} called)"
            actions += self._refuse(first, "expired", reason, now)
        for session in list(self._granted.values()):
            actions += self._call_again(session, now)
            if session.hedge_at is not None and now >= session.hedge_at:
                session.hedge_at = None
                actions += self._hedge(session, now)
            if session.substitute_at is not None and now >= session.substitute_at:
                session.substitute_at = now + SUBSTITUTE
                session.owed = max(session.owed, 1)
        return actions + self._serve(now)

    # Calling.

    def _serve(self, now: Instant) -> list[Action]:
        """Substitutes first: a session that holds slots and waits for one more must not wait behind the queue."""
        actions = [action for session in list(self._granted.values()) for action in self._pay(session, now)]
        return actions + [action for domain in list(self._queues) for action in self._pump(domain, now)]

    def _pump(self, domain_id: DomainId, now: Instant) -> list[Action]:
        """Grants what the queue's head can have, requester after requester."""
        actions: list[Action] = []
        queue = self._queues.get(domain_id, OrderedDict())
        domain = self._domains.get(domain_id)
        while queue and domain is not None:
            requester, ids = next(iter(queue.items()))
            session = self._sessions[ids[0]]
            if (held := len(self._live_shards(domain))) < domain.threshold:
                reason = f"{held} of {domain.threshold} needed holders of {domain_id} are live"
                actions += self._refuse(session, "quorum_not_reached", reason, now)
                continue
            free = self._candidates(session, domain, domain.threshold, now)
            if len(free) < domain.threshold:
                break
            self._dequeue(session)
            if requester in queue:
                queue.move_to_end(requester)
            session.substitute_at = now + SUBSTITUTE
            session.hedge_at = self._hedge_time(free, now)
            self._granted[session.id] = session
            actions.append(self._call(session, free, now))
        return actions

    def _pay(self, session: Session, now: Instant) -> list[Action]:
        """Calls the substitutes that a granted session is owed, as far as there are free holders."""
        if not session.owed:
            return []
        domain = self._domains[session.domain]
        found = self._candidates(session, domain, session.owed, now)
        session.owed -= len(found)
        return [self._call(session, found, now)] if found else []

    def _hedge_time(self, called: tuple[Shard, ...], now: Instant) -> Instant | None:
        """None where a substitute would come first, or nothing is known of a holder yet."""
        usual = [self._latency.get(node) for _, node in called]
        known = [latency for latency in usual if latency is not None]
        if len(known) < len(usual):
            return None
        patience = max(HEDGE_LEAST, HEDGE_FACTOR * max(known))
        return None if patience >= SUBSTITUTE else now + patience

    def _hedge(self, session: Session, now: Instant) -> list[Action]:
        if session.domain in self._queues:
            return []
        found = self._candidates(session, self._domains[session.domain], 1, now)
        return [self._call(session, found, now)] if found else []

    def _call_again(self, session: Session, now: Instant) -> list[Action]:
        due = [index for index, at in session.again.items() if now >= at]
        for index in due:
            del session.again[index]
        shards = tuple((index, session.called[index]) for index in due)
        return [self._call(session, shards, now)] if shards else []

    def _call(self, session: Session, shards: tuple[Shard, ...], now: Instant) -> Grant:
        calls = []
        for index, node in shards:
            shard = (session.domain, index)
            self._taken[shard] = (session.id, now + SLOT)
            session.called[index] = node
            calls.append((index, node, self._fences.next(shard)))
        return Grant(session.id, session.domain, session.requester, session.request, tuple(calls))

    def _live_shards(self, domain: DomainIs) -> tuple[Shard, ...]:
        return tuple(
            shard
            for shard in domain.shards
            if (node := self._nodes.get(shard[1])) is not None and domain.domain in node.ready
        )

    def _candidates(self, session: Session, domain: DomainIs, most: int, now: Instant) -> tuple[Shard, ...]:
        """Live, free, and not asked in this session yet; the best `most`, or as many as there are."""
        free = [
            shard
            for shard in self._live_shards(domain)
            if shard[0] not in session.spent and not self._is_taken((domain.domain, shard[0]), now)
        ]
        holders = {
            node: Holder(up.zone, up.open_sessions, self._latency.get(node, 0.0))
            for node, up in self._nodes.items()
        }
        return rank(free, session.requester, holders, most)

    def _is_taken(self, shard: tuple[DomainId, int], now: Instant) -> bool:
        taken = self._taken.get(shard)
        return taken is not None and now < taken[1]

    def _free(self, session: Session, index: int) -> None:
        taken = self._taken.get((session.domain, index))
        if taken is not None and taken[0] == session.id:
            del self._taken[(session.domain, index)]

    def _free_all(self, session: SessionId) -> None:
        self._taken = {shard: taken for shard, taken in self._taken.items() if taken[0] != session}

    # Ends.

    def _refuse(self, session: Session, code: str, reason: str, now: Instant) -> list[Action]:
        outcome = "expired" if code == "expired" else "refused"
        told = Refuse(session.id, session.requester, code, reason)
        return [told, *self._end(session, outcome, reason, now)]

    def _end(self, session: Session, outcome: str, reason: str, now: Instant) -> list[Action]:
        """Slots that nobody freed stay taken until the modules let them go by themselves."""
        self._dequeue(session)
        del self._sessions[session.id]
        self._granted.pop(session.id, None)
        self._of_requester[session.requester] -= 1
        self._remember(session.id, session.requester)
        return [
            Ended(
                session.id,
                session.domain,
                session.requester,
                outcome,
                reason,
                tuple(session.called.items()),
                tuple((index, session.called[index], why) for index, why in session.refused.items()),
                tuple((index, session.called[index]) for index in sorted(session.culprits)),
                now - session.asked,
            )
        ]

    def _dequeue(self, session: Session) -> None:
        queue = self._queues.get(session.domain, OrderedDict())
        ids = queue.get(session.requester)
        if ids is None or session.id not in ids:
            return
        ids.remove(session.id)
        if not ids:
            del queue[session.requester]
        if not queue:
            del self._queues[session.domain]

    def _remember(self, session: SessionId, requester: NodeId) -> None:
        self._ended[session] = requester
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
