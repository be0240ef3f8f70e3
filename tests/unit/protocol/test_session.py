"""The hub's sessions: what one event sets off, and the attacks that the queue and the fences must stand."""

from collections import Counter
from dataclasses import replace

import pytest

from quorate.ids import DomainId, NodeId, SessionId
from quorate.protocol.fences import MAX_STEP
from quorate.protocol.session import (
    AGAIN,
    DEADLINE,
    HEDGE_FACTOR,
    HEDGE_LEAST,
    PER_REQUESTER,
    SLOT,
    SUBSTITUTE,
    Sessions,
)
from quorate.protocol.session_events import (
    Action,
    ClosedCame,
    CulpritsCame,
    DomainIs,
    Ended,
    Grant,
    NodeDown,
    NodeUp,
    RefusalCame,
    Refuse,
    RequestCame,
    TimePassed,
)

DOMAIN = DomainId("payroll")
A, B, C, D, E, F = (NodeId(name) for name in "abcdef")
FIVE = (A, B, C, D, E)
TERM = 7
T0 = 100.0


def domain(*nodes: NodeId, threshold: int = 3, epoch: int = 1) -> DomainIs:
    return DomainIs(DOMAIN, epoch, b"configuration", threshold, tuple(enumerate(nodes, start=1)))


def up(node: NodeId) -> NodeUp:
    return NodeUp(node, "z", 0, frozenset({DOMAIN}))


def hub(*nodes: NodeId, live: tuple[NodeId, ...] | None = None, threshold: int = 3) -> Sessions:
    machine = Sessions(TERM)
    assert machine.handle(domain(*nodes, threshold=threshold), T0) == []
    for node in nodes if live is None else live:
        assert machine.handle(up(node), T0) == []
    return machine


def sid(n: int) -> SessionId:
    return SessionId(n.to_bytes(16, "big"))


def request(n: int, sender: NodeId, epoch: int = 1) -> RequestCame:
    return RequestCame(sender, sid(n), DOMAIN, epoch, b"configuration", b"request %d" % n)


def grant(n: int, requester: NodeId, *calls: tuple[int, NodeId, int], term: int = TERM) -> Grant:
    fenced = tuple((index, node, (term, number)) for index, node, number in calls)
    return Grant(sid(n), DOMAIN, requester, b"request %d" % n, fenced)


def refusal(n: int, sender: NodeId, index: int, reason: str, term: int = 0, fence: int = 0) -> RefusalCame:
    return RefusalCame(sender, sid(n), DOMAIN, index, reason, (term, fence))


def closed(n: int, sender: NodeId, outcome: str = "combined", *answered: tuple[int, float]) -> ClosedCame:
    return ClosedCame(sender, sid(n), outcome, (), answered)


def ended(
    n: int,
    requester: NodeId,
    outcome: str,
    reason: str,
    seconds: float,
    *,
    called: tuple[tuple[int, NodeId], ...] = (),
) -> Ended:
    near: float = pytest.approx(seconds)  # type: ignore[assignment]
    return Ended(sid(n), DOMAIN, requester, outcome, reason, called, (), (), near)


ABC = ((1, A), (2, B), (3, C))


# A request.


def test_request_calls_a_whole_quorum_with_the_requesters_own_shard_first() -> None:
    assert hub(*FIVE).handle(request(1, C), T0) == [grant(1, C, (3, C, 1), (1, A, 1), (2, B, 1))]


def test_request_of_another_epoch_is_refused() -> None:
    reason = "epoch 1 of payroll is current"
    assert hub(*FIVE).handle(request(1, A, epoch=2), T0) == [
        Refuse(sid(1), A, "wrong_epoch", reason),
        ended(1, A, "refused", "wrong_epoch", 0),
    ]


def test_request_of_another_configuration_of_the_epoch_is_refused() -> None:
    refused = hub(*FIVE).handle(replace(request(1, A), configuration=b"another"), T0)
    assert refused[0] == Refuse(sid(1), A, "wrong_epoch", "epoch 1 of payroll is current")


def test_request_of_no_member_is_refused() -> None:
    assert hub(*FIVE).handle(request(1, F), T0) == [
        Refuse(sid(1), F, "not_a_member", "f is no member of payroll"),
        ended(1, F, "refused", "not_a_member", 0),
    ]


def test_request_for_an_unknown_domain_is_refused() -> None:
    refused = Sessions(TERM).handle(request(1, A), T0)
    assert refused[0] == Refuse(sid(1), A, "unknown_domain", "there is no domain payroll")


def test_fewer_than_threshold_live_is_refused_at_once_with_the_count() -> None:
    reason = "2 of 3 needed holders of payroll are live"
    assert hub(*FIVE, live=(A, B)).handle(request(1, A), T0) == [
        Refuse(sid(1), A, "quorum_not_reached", reason),
        ended(1, A, "refused", reason, 0),
    ]


def test_live_node_that_does_not_hold_the_epoch_does_not_count() -> None:
    machine = hub(*FIVE, live=(A, B))
    machine.handle(NodeUp(C, "z", 0, frozenset()), T0)
    assert isinstance(machine.handle(request(1, A), T0)[0], Refuse)


@pytest.mark.parametrize("after", ["open", "ended"])
def test_n56_repeated_request_is_dropped_and_counted(after: str) -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    if after == "ended":
        machine.handle(closed(1, A), T0)
    assert machine.handle(request(1, A), T0) == []
    assert machine.dropped == Counter(replayed=1)


# The queue.


def test_request_waits_until_a_whole_quorum_is_free() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(request(2, D), T0) == []
    assert machine.queued == 1
    assert machine.handle(closed(1, A), T0 + 0.004) == [
        ended(1, A, "combined", "", 0.004, called=ABC),
        grant(2, D, (4, D, 1), (1, A, 2), (2, B, 2)),
    ]


def test_queue_goes_round_the_requesters() -> None:
    machine = hub(*FIVE)
    for n, sender in enumerate((A, A, A, B, B, C), start=1):
        machine.handle(request(n, sender), T0)
    order, n, sender = [1], 1, A
    while following := [a for a in machine.handle(closed(n, sender), T0) if isinstance(a, Grant)]:
        n, sender = int.from_bytes(following[0].session.value, "big"), following[0].requester
        order.append(n)
    assert order == [1, 2, 4, 6, 3, 5]


def test_session_that_waits_in_vain_expires_at_its_deadline() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    machine.handle(request(2, D), T0 + 0.1)
    machine.handle(TimePassed(), T0 + DEADLINE)
    assert machine.handle(TimePassed(), T0 + 0.1 + DEADLINE - 0.001) == []
    reason = "no holders were free within 1 s"
    assert machine.handle(TimePassed(), T0 + 0.1 + DEADLINE) == [
        Refuse(sid(2), D, "expired", reason),
        ended(2, D, "expired", reason, DEADLINE),
    ]


def test_n62_requests_over_the_quota_are_refused() -> None:
    machine = hub(*FIVE)
    for n in range(PER_REQUESTER):
        assert all(not isinstance(a, Refuse) for a in machine.handle(request(n, A), T0))
    over = machine.handle(request(999, A), T0)
    assert over[0] == Refuse(sid(999), A, "queue_full", "too many sessions wait; try again")
    assert machine.handle(request(1000, B), T0) == [], "another requester still waits its turn"


def test_n62_ten_thousand_half_open_requests_leave_the_service_up() -> None:
    members = tuple(NodeId(f"n{i}") for i in range(1, 255))
    machine = hub(*members)
    honest, n = members[0], 0
    for _ in range(40):
        for sender in members[1:]:
            n += 1
            machine.handle(request(n, sender), T0)
            assert machine.wake is not None
    assert n > 10_000
    assert machine.queued <= 4096

    served = None
    now = T0
    while served is None:
        # Nobody ever closes. What the flood left runs out, and the honest node is served on its next try.
        n += 1
        actions = machine.handle(request(n, honest), now)
        while machine.wake is not None and machine.wake <= now + DEADLINE and served is None:
            served = next((a for a in actions if isinstance(a, Grant) and a.requester == honest), None)
            now = max(now, machine.wake)
            actions = machine.handle(TimePassed(), now)
        assert now < T0 + 3 * DEADLINE, "the honest requester is starved"
    assert machine.queued == 0


# Ends.


def test_closed_frees_the_slots_and_only_for_its_requester() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(closed(1, B), T0) == []
    assert machine.dropped == Counter(no_session=1)
    assert machine.handle(closed(1, A), T0) == [ended(1, A, "combined", "", 0, called=ABC)]
    assert machine.handle(request(2, A), T0) == [grant(2, A, (1, A, 2), (2, B, 2), (3, C, 2))]


def test_granted_session_expires_and_its_slots_stay_taken_until_the_modules_let_go() -> None:
    machine = hub(A, B, C, threshold=2)
    machine.handle(request(1, A), T0)
    machine.handle(NodeDown(C), T0)
    reason = "not closed within 1 s (2 called)"
    assert machine.handle(TimePassed(), T0 + DEADLINE) == [
        Refuse(sid(1), A, "expired", reason),
        ended(1, A, "expired", reason, DEADLINE, called=ABC[:2]),
    ]
    assert machine.handle(request(2, A), T0 + DEADLINE) == []
    assert machine.wake == T0 + SLOT
    assert machine.handle(TimePassed(), T0 + SLOT) == [grant(2, A, (1, A, 2), (2, B, 2))]


def test_last_word_that_comes_after_the_end_still_frees_the_slots() -> None:
    machine = hub(A, B, C, threshold=2)
    machine.handle(request(1, A), T0)
    machine.handle(NodeDown(C), T0)
    machine.handle(TimePassed(), T0 + DEADLINE)
    machine.handle(request(2, A), T0 + DEADLINE)
    assert machine.handle(closed(1, B, "expired"), T0 + DEADLINE) == [], "not its requester"
    assert machine.handle(closed(1, A, "expired"), T0 + DEADLINE) == [grant(2, A, (1, A, 2), (2, B, 2))]


def test_requester_that_is_gone_ends_its_sessions() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    machine.handle(request(2, A), T0)
    gone = "its requester is gone"
    assert machine.handle(NodeDown(A), T0) == [
        ended(1, A, "expired", gone, 0, called=ABC),
        ended(2, A, "expired", gone, 0),
    ]


def test_new_epoch_ends_the_sessions_of_the_old_one_and_starts_its_fences_again() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(domain(*FIVE, epoch=2), T0)[0] == Refuse(
        sid(1), A, "wrong_epoch", "another epoch is current now"
    )
    machine.handle(closed(1, A, "refused"), T0)
    again = machine.handle(request(2, A, epoch=2), T0)
    assert again == [grant(2, A, (1, A, 1), (2, B, 1), (3, C, 1))]


def test_epoch_that_is_told_again_disturbs_nothing() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(domain(*FIVE), T0) == []
    assert machine.handle(closed(1, A), T0) == [ended(1, A, "combined", "", 0, called=ABC)]


def test_epoch_never_goes_back() -> None:
    machine = hub(*FIVE)
    machine.handle(domain(*FIVE, epoch=2), T0)
    assert machine.handle(domain(*FIVE, epoch=1), T0) == []
    assert machine.dropped == Counter(stale_epoch=1)
    assert isinstance(machine.handle(request(1, A, epoch=2), T0)[0], Grant)


# Substitutes.


def test_silence_calls_one_more_holder_and_again_one() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    for expected in ([grant(1, A, (4, D, 1))], [grant(1, A, (5, E, 1))], []):
        due = machine.wake
        assert due is not None
        assert machine.handle(TimePassed(), due - 0.001) == []
        assert machine.handle(TimePassed(), due) == expected
    assert due == pytest.approx(T0 + 3 * SUBSTITUTE), "nobody was left to ask"


def acquainted(latency: float) -> Sessions:
    """A hub that has seen one session of each quorum."""
    machine = hub(*FIVE)
    machine.handle(request(91, A), T0)
    machine.handle(closed(91, A, "combined", (1, latency), (2, latency), (3, latency)), T0)
    machine.handle(request(92, D), T0)
    called = machine.handle(TimePassed(), T0 + SUBSTITUTE)  # so that the fifth is known as well
    assert isinstance(called[0], Grant)
    machine.handle(closed(92, D, "combined", *((index, latency) for index in range(1, 6))), T0)
    return machine


def calls(actions: list[Action]) -> list[NodeId]:
    return [node for action in actions if isinstance(action, Grant) for _, node, _ in action.calls]


@pytest.mark.parametrize("latency", [0.001, 0.030])
def test_session_that_takes_much_longer_than_usual_is_hedged_once(latency: float) -> None:
    machine = acquainted(latency)
    first = calls(machine.handle(request(1, A), T0))
    due = machine.wake
    assert due == pytest.approx(T0 + max(HEDGE_LEAST, HEDGE_FACTOR * latency))
    hedge = calls(machine.handle(TimePassed(), due))
    assert len(hedge) == 1
    assert not set(hedge) & set(first)
    assert machine.wake == pytest.approx(T0 + SUBSTITUTE), "it is hedged once; then comes the substitute"
    assert len(calls(machine.handle(TimePassed(), machine.wake))) == 1


def test_nobody_is_hedged_while_others_queue() -> None:
    machine = acquainted(0.001)
    machine.handle(request(1, A), T0)
    assert machine.handle(request(2, B), T0) == [], "two free shards are no quorum: it waits"
    assert machine.handle(TimePassed(), T0 + HEDGE_LEAST) == []
    assert machine.wake == pytest.approx(T0 + SUBSTITUTE)


def test_slow_holders_are_not_hedged_before_their_substitute() -> None:
    machine = acquainted(SUBSTITUTE / HEDGE_FACTOR + 0.001)
    machine.handle(request(1, A), T0)
    assert machine.wake == pytest.approx(T0 + SUBSTITUTE)


def test_refusal_calls_a_substitute_once() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    refused = refusal(1, B, 2, "rate_limited")
    assert machine.handle(refused, T0) == [grant(1, A, (4, D, 1))]
    assert machine.handle(refused, T0) == [], "a repeat must not call the whole committee"
    assert machine.dropped == Counter(repeated=1)


@pytest.mark.parametrize(
    "foreign",
    [
        refusal(1, B, 3, "rate_limited"),
        refusal(2, B, 2, "rate_limited"),
        refusal(1, D, 4, "rate_limited"),
        replace(refusal(1, B, 2, "rate_limited"), domain=DomainId("other")),
    ],
)
def test_refusal_by_whom_the_session_did_not_call_is_dropped(foreign: RefusalCame) -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(foreign, T0) == []
    assert machine.dropped == Counter(no_session=1)


def test_culprit_is_replaced_once_and_never_asked_again() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    blamed = CulpritsCame(A, sid(1), ((2, B),))
    assert machine.handle(blamed, T0) == [grant(1, A, (4, D, 1))]
    assert machine.handle(blamed, T0) == []
    assert machine.handle(refusal(1, B, 2, "slot_busy"), T0) == []
    assert machine.handle(TimePassed(), T0 + AGAIN) == [], "a convicted holder is not called again"
    end = machine.handle(closed(1, A), T0 + AGAIN)[0]
    assert isinstance(end, Ended)
    assert end.culprits == ((2, B),)


def test_holder_that_refused_and_is_blamed_is_replaced_once() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    machine.handle(refusal(1, B, 2, "rate_limited"), T0)
    assert machine.handle(CulpritsCame(A, sid(1), ((2, B),)), T0) == []
    assert machine.handle(NodeDown(B), T0) == []


def test_only_its_requester_blames_the_holders_of_a_session() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(CulpritsCame(C, sid(1), ((2, B),)), T0) == []
    assert machine.dropped == Counter(no_session=1)


def test_holder_that_goes_down_is_replaced() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(NodeDown(B), T0) == [grant(1, A, (4, D, 1))]


def test_session_that_is_owed_a_substitute_comes_before_the_queue() -> None:
    machine = hub(A, B, C, D, E, F)
    machine.handle(request(1, A), T0)
    machine.handle(request(2, D), T0)
    machine.handle(request(3, F), T0)
    assert machine.handle(refusal(1, B, 2, "use_limit"), T0) == [], "nobody is free"
    assert machine.handle(closed(2, D), T0) == [
        ended(2, D, "combined", "", 0, called=((4, D), (5, E), (6, F))),
        grant(1, A, (4, D, 2)),
        grant(3, F, (6, F, 2), (2, B, 2), (5, E, 2)),
    ]


def test_slot_that_is_not_free_yet_is_asked_again_soon() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(refusal(1, B, 2, "slot_busy"), T0) == []
    assert machine.wake == T0 + AGAIN
    assert machine.handle(TimePassed(), T0 + AGAIN) == [grant(1, A, (2, B, 2))]


def test_recent_answers_decide_between_equal_holders() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    machine.handle(closed(1, B, "combined", (1, 0.9)), T0)
    machine.handle(closed(1, A, "combined", (2, 0.4), (3, 0.1)), T0)
    assert machine.handle(request(2, A), T0) == [grant(2, A, (1, A, 2), (4, D, 1), (5, E, 1))]
    assert machine.dropped == Counter(no_session=1)


# Fences.


def test_fences_of_a_shard_rise_strictly() -> None:
    machine = hub(A, B, C, threshold=2)
    fences = []
    for n in range(1, 6):
        (granted,) = machine.handle(request(n, A), T0)
        assert isinstance(granted, Grant)
        fences.append(next(fence for index, _, fence in granted.calls if index == 1))
        machine.handle(closed(n, A), T0)
    assert fences == [(TERM, number) for number in (1, 2, 3, 4, 5)]


def test_reported_fence_moves_that_shard_ahead_and_no_other() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(refusal(1, B, 2, "stale_fence", TERM, 500), T0) == [grant(1, A, (2, B, 501))]
    machine.handle(closed(1, A), T0)
    assert machine.handle(request(2, A), T0) == [grant(2, A, (1, A, 2), (2, B, 502), (3, C, 2))]


def test_n97_reported_fence_at_the_end_of_the_numbers_moves_a_step_and_the_holder_is_replaced() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    lie = refusal(1, B, 2, "stale_fence", TERM, 2**64 - 1)
    assert machine.handle(lie, T0) == [grant(1, A, (4, D, 1))]
    assert machine.dropped == Counter(fence_too_far=1)
    machine.handle(closed(1, A), T0)
    ahead = 1 + MAX_STEP + 1
    assert machine.handle(request(2, A), T0) == [grant(2, A, (1, A, 2), (2, B, ahead), (3, C, 2))]


@pytest.mark.parametrize(("fence", "believed"), [(1 + MAX_STEP, True), (2 + MAX_STEP, False)])
def test_n97_a_jump_is_at_most_two_to_the_32(fence: int, believed: bool) -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    (granted,) = machine.handle(refusal(1, B, 2, "stale_fence", TERM, fence), T0)
    assert granted == (grant(1, A, (2, B, fence + 1)) if believed else grant(1, A, (4, D, 1)))


def test_n97_holder_that_never_stops_reporting_is_replaced() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    fence, calls = 1, 0
    for _ in range(20):
        fence += MAX_STEP
        calls += sum(
            action == grant(1, A, (2, B, fence + 1))
            for action in machine.handle(refusal(1, B, 2, "stale_fence", TERM, fence), T0)
        )
    assert 1 <= calls <= 3
    assert machine.dropped["fence_again"] == 1
    end = machine.handle(closed(1, A), T0)[0]
    assert isinstance(end, Ended)
    assert end.called == (*ABC, (4, D))
    assert end.refused == ((2, B, "stale_fence"),)


def test_fence_that_is_not_ahead_is_no_reason_to_try_again() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(refusal(1, B, 2, "stale_fence", TERM, 0), T0) == [grant(1, A, (4, D, 1))]
    assert machine.handle(refusal(1, C, 3, "stale_fence", TERM - 1, 9), T0) == [grant(1, A, (5, E, 1))]
    assert machine.dropped == Counter(fence_not_ahead=2)


def test_higher_term_is_followed_for_the_shard_that_reported_it_and_no_other() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(refusal(1, B, 2, "stale_fence", 9, 77), T0) == [grant(1, A, (2, B, 1), term=10)]
    assert machine.handle(refusal(1, C, 3, "stale_fence", TERM, 12), T0) == [grant(1, A, (3, C, 13))]
    machine.handle(closed(1, A), T0)
    (granted,) = machine.handle(request(2, A), T0)
    assert isinstance(granted, Grant)
    assert [fence for _, _, fence in granted.calls] == [(TERM, 2), (10, 2), (TERM, 14)]


def test_n97_term_at_the_end_of_the_numbers_moves_a_step_and_the_holder_is_replaced() -> None:
    machine = hub(*FIVE)
    machine.handle(request(1, A), T0)
    assert machine.handle(refusal(1, B, 2, "stale_fence", 2**64 - 1, 1), T0) == [grant(1, A, (4, D, 1))]
    assert machine.dropped == Counter(fence_too_far=1)
    machine.handle(closed(1, A), T0)
    (granted,) = machine.handle(request(2, A), T0)
    assert isinstance(granted, Grant)
    assert [fence for _, _, fence in granted.calls] == [(TERM, 2), (TERM + MAX_STEP, 1), (TERM, 2)]


def test_n97_shard_that_a_stolen_hub_walked_far_ahead_is_reached_again_step_by_step() -> None:
    machine = hub(*FIVE)
    seen = TERM + 3 * MAX_STEP
    sessions = 0
    while sessions < 10:
        sessions += 1
        machine.handle(request(sessions, A), T0)
        (answer,) = machine.handle(refusal(sessions, B, 2, "stale_fence", seen, 5), T0)
        machine.handle(closed(sessions, A), T0)
        if answer == grant(sessions, A, (2, B, 6), term=seen):
            break
    assert sessions == 4
