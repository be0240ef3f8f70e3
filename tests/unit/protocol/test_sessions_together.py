"""The hub's machine with real requesters, over links that one seed delays, and holders that keep one slot each."""

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random

import pytest

from quorate.ids import HUB, DomainId, NodeId, SessionId
from quorate.protocol import requester as r
from quorate.protocol import session as h
from quorate.protocol import session_events as e

DOMAIN = DomainId("payroll")
CONFIGURATION = b"configuration"
THRESHOLD = 3
NODES = tuple(NodeId(f"n{i}") for i in range(1, 6))
START = 100.0


@dataclass
class Slot:
    """A holder's module, as `usage.rs` has it: one session at a time, fences that only rise."""

    session: SessionId | None = None
    until: float = 0.0
    fence: tuple[int, int] = (0, 0)

    def take(self, session: SessionId, fence: tuple[int, int], now: float) -> str | None:
        if fence <= self.fence:
            return "stale_fence"
        if self.session is not None and now < self.until:
            return "slot_busy"
        self.session, self.until, self.fence = session, now + h.SLOT, fence
        return None

    def release(self, session: SessionId) -> None:
        if self.session == session:
            self.session = None


@dataclass
class World:
    """Five nodes, one domain. Each of `each` requesters on a node stands for one that is cold by itself."""

    seed: int
    each: int
    dead: frozenset[NodeId] = frozenset()
    now: float = START
    machine: h.Sessions = field(default_factory=lambda: h.Sessions(1))
    outcomes: Counter[str] = field(default_factory=Counter)
    ended: list[e.Ended] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.slots = {node: Slot() for node in NODES}
        self.queue: list[tuple[float, int, str, object]] = []
        self.count = 0
        self.machines: dict[tuple[NodeId, int], r.Requester] = {}
        self.owner: dict[SessionId, tuple[NodeId, int]] = {}
        self.shares: dict[SessionId, set[NodeId]] = defaultdict(set)
        self.feed_hub(e.DomainIs(DOMAIN, 1, CONFIGURATION, THRESHOLD, tuple(enumerate(NODES, start=1))))
        for node in NODES:  # the hub has not noticed yet who is dead
            self.feed_hub(e.NodeUp(node, "z", 0, frozenset({DOMAIN})))
        for node in NODES:
            for n in range(self.each):
                if node not in self.dead:
                    self.machines[node, n] = r.Requester(DOMAIN)
                    self.later(0, "requester", ((node, n), r.Needed(n)))

    def later(self, delay: float, what: str, event: object) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now + delay, self.count, what, event))

    def hop(self) -> float:
        return self.random.uniform(0.0001, 0.0005)

    def run(self) -> None:
        while True:
            times = [self.queue[0][0]] if self.queue else []
            wakes = [m.wake for m in self.machines.values() if m.wake is not None]
            if self.machine.wake is not None:
                wakes.append(self.machine.wake)
            if not times and not wakes:
                return
            self.now = max(self.now, min(times + wakes))
            assert self.now < START + 5, "something waits for ever"
            if times and times[0] <= self.now:
                _, _, what, event = heapq.heappop(self.queue)
                getattr(self, "on_" + what)(event)
                continue
            if self.machine.wake is not None and self.machine.wake <= self.now:
                self.feed_hub(e.TimePassed())
            for who, machine in list(self.machines.items()):
                if machine.wake is not None and machine.wake <= self.now:
                    self.on_requester((who, r.TimePassed()))

    # The hub.

    def feed_hub(self, event: e.Event) -> None:
        for action in self.machine.handle(event, self.now):
            match action:
                case e.Grant(session, _, _, _, calls):
                    told = tuple((index, node) for index, node, _ in calls)
                    self.later(self.hop(), "requester", (self.owner[session], r.Granted(session, told)))
                    for index, node, fence in calls:
                        self.later(self.hop(), "holder", (node, index, session, fence))
                case e.Refuse(session, _, code, reason):
                    self.later(
                        self.hop(), "requester", (self.owner[session], r.Refused(session, code, reason))
                    )
                case e.Ended():
                    self.ended.append(action)

    def on_hub(self, event: e.Event) -> None:
        self.feed_hub(event)

    # Holders.

    def on_holder(self, call: tuple[NodeId, int, SessionId, tuple[int, int]]) -> None:
        node, index, session, fence = call
        if node in self.dead:
            return
        slot = self.slots[node]
        refused = slot.take(session, fence, self.now)
        if refused is None:
            answer = r.AnswerCame(session, node, index, node.value.encode())
            self.later(self.hop(), "requester", (self.owner[session], answer))
        else:
            event = e.RefusalCame(node, session, DOMAIN, index, refused, slot.fence)
            self.later(self.hop(), "hub", event)

    def on_closed(self, closed: tuple[NodeId, SessionId]) -> None:
        self.slots[closed[0]].release(closed[1])

    # Requesters and their modules.

    def on_requester(self, item: tuple[tuple[NodeId, int], r.Event]) -> None:
        who, event = item
        step = self.machines[who].handle(event, self.now)
        self.machines[who] = step.state
        for action in step.do:
            self.carry_out(who, action)

    def carry_out(self, who: tuple[NodeId, int], action: r.Action) -> None:
        match action:
            case r.Open():
                session = SessionId(self.random.randbytes(16))
                self.owner[session] = who
                self.on_requester((who, r.Opened(session, session.value)))
            case r.Receive(session, answer):
                shares = self.shares[session]
                shares.add(NodeId(answer.decode()))
                closed = b"combined" if len(shares) == THRESHOLD else None
                got = r.Received(session, len(shares), THRESHOLD, closed=closed)
                self.on_requester((who, got))
            case r.Abandon(session, outcome):
                self.on_requester((who, r.Abandoned(session, outcome.encode())))
            case r.Send(to, "session/request", (request,)) if to == HUB:
                session = SessionId(bytes(request))  # type: ignore[call-overload]
                asked = e.RequestCame(who[0], session, DOMAIN, 1, CONFIGURATION, b"request")
                self.later(self.hop(), "hub", asked)
            case r.Send(to, "session/ended", (outcome, _)) if to == HUB:
                word = bytes(outcome).decode()  # type: ignore[call-overload]
                closed = e.ClosedCame(who[0], self.last_session(who), word, ())
                self.later(self.hop(), "hub", closed)
            case r.Send(to, "session/closed", (_,)):
                self.later(self.hop(), "closed", (to, self.last_session(who)))
            case r.Ended(_, _, failure):
                self.outcomes["combined" if failure is None else failure.code] += 1

    def last_session(self, who: tuple[NodeId, int]) -> SessionId:
        return list(self.machines[who].past)[-1]


@pytest.mark.parametrize("seed", range(20))
def test_n96_five_cold_requesters_at_once_all_combine(seed: int) -> None:
    world = World(seed, each=1)
    world.run()
    assert world.outcomes == Counter(combined=5)
    assert world.machine.wake is None


@pytest.mark.parametrize("seed", range(5))
def test_n96_hundred_cold_sessions_on_one_domain_all_combine(seed: int) -> None:
    world = World(seed, each=20)
    world.run()
    assert world.outcomes == Counter(combined=100)
    assert Counter(end.outcome for end in world.ended) == Counter(combined=100)
    assert world.now < START + h.DEADLINE


@pytest.mark.parametrize("seed", range(5))
def test_silent_holder_is_replaced_and_every_requester_is_answered(seed: int) -> None:
    world = World(seed, each=1, dead=frozenset({NODES[1]}))
    world.run()
    assert world.outcomes == Counter(combined=4)


@pytest.mark.parametrize("seed", range(5))
def test_n96_sessions_that_cannot_all_be_served_end_all_the_same(seed: int) -> None:
    world = World(seed, each=20, dead=frozenset(NODES[:3]))
    world.run()
    assert world.outcomes.total() == 40
    assert set(world.outcomes) == {"expired"}
    assert len(world.ended) == 40
