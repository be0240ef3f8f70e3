"""An epoch's creation at the hub: one input, the whole step."""

from dataclasses import replace

import pytest

from quorate.ids import HUB, NodeId
from quorate.protocol.epoch_change import (
    GIVE_UP_SECONDS,
    KEYS_SECONDS,
    PREPARE_SECONDS,
    Action,
    ActivatedCame,
    Attempt,
    Deal,
    DealingMade,
    Dealt,
    Event,
    Finished,
    KeysCame,
    NodeDown,
    NodeUp,
    Persist,
    Phase,
    Plan,
    PreparedCame,
    RefusedCame,
    SendAbort,
    SendCommit,
    SendPlan,
    SendPrepare,
    Step,
    TimePassed,
)

A, B, C, D, E, X = (NodeId(name) for name in "abcdex")
NODES = (A, B, C, D, E)
PLAN = Plan(b"plan hash", b"plan", b"charter", tuple(enumerate(NODES, start=1)), needed=4)
DEALT = Dealt(b"dealing", (b"s1", b"s2", b"s3", b"s4", b"s5"), b"configuration", b"configuration hash")
KEYS = {index: b"key %d" % index for index in range(1, 6)}
RECEIPTS = {index: b"receipt %d" % index for index in range(1, 6)}
T0 = 100.0

PLANNED = Attempt(PLAN, frozenset(NODES), Phase.PLANNED, T0)
DEALING = replace(PLANNED, keys=KEYS, dealing=True)
IS_DEALT = replace(PLANNED, phase=Phase.DEALT, dealt=DEALT)
COMMITTED = replace(IS_DEALT, phase=Phase.COMMITTED, receipts=RECEIPTS)


def keys(*nodes: NodeId) -> dict[int, bytes]:
    return {index: KEYS[index] for index, node in PLAN.seats if node in nodes}


def receipts(*nodes: NodeId) -> dict[int, bytes]:
    return {index: RECEIPTS[index] for index, node in PLAN.seats if node in nodes}


def keys_came(node: NodeId) -> KeysCame:
    return KeysCame(node, b"plan hash", keys(node))


def prepared_came(node: NodeId) -> PreparedCame:
    return PreparedCame(node, b"configuration hash", receipts(node))


def activated_came(node: NodeId) -> ActivatedCame:
    return ActivatedCame(node, b"configuration hash", tuple(receipts(node)))


def prepare(node: NodeId) -> SendPrepare:
    index = NODES.index(node) + 1
    return SendPrepare(node, b"configuration", b"dealing", ((index, 0, b"s%d" % index),))


def commit(node: NodeId, *of: NodeId) -> SendCommit:
    return SendCommit(node, b"configuration", tuple(receipts(*of or NODES).values()))


def aborted(attempt: Attempt, code: str, reason: str, culprits: tuple[str, ...] = ()) -> Step:
    over = replace(attempt, phase=Phase.ABORTED, keys={}, dealing=False, told=True)
    sends = tuple(SendAbort(node, reason) for node in NODES)
    finished = Finished(committed=False, code=code, reason=reason, culprits=culprits)
    return Step(over, (Persist(Phase.ABORTED, reason=reason), *sends, finished))


# Plan and keys.


def test_plan_is_durable_before_it_is_sent() -> None:
    assert Attempt.begin(PLAN, frozenset({*NODES, X}), T0) == Step(
        PLANNED, (Persist(Phase.PLANNED), *(SendPlan(node) for node in NODES))
    )


def test_plan_with_a_member_that_is_away_is_aborted_and_its_number_burnt() -> None:
    step = Attempt.begin(PLAN, frozenset({A, B, C}), T0)
    live = replace(PLANNED, live=frozenset({A, B, C}))
    over = aborted(live, "not_live", "d, e cannot be reached")
    assert step == Step(over.state, (Persist(Phase.PLANNED), *over.do))


def test_dealing_starts_with_the_last_key_in_the_order_of_the_seats() -> None:
    waiting = replace(PLANNED, keys=keys(B, C, D, E))
    step = waiting.handle(keys_came(A), T0)
    assert step == Step(DEALING, (Deal(tuple(KEYS[index] for index in range(1, 6))),))


def test_keys_that_come_again_do_not_deal_twice() -> None:
    assert DEALING.handle(keys_came(A), T0) == Step(DEALING)


@pytest.mark.parametrize(
    "foreign",
    [
        KeysCame(A, b"another plan", keys(A)),
        KeysCame(X, b"plan hash", {1: b"a key of x"}),
        KeysCame(B, b"plan hash", {1: b"a key of b"}),
        KeysCame(A, b"plan hash", {9: b"no seat"}),
    ],
)
def test_keys_for_no_seat_of_their_sender_change_nothing(foreign: KeysCame) -> None:
    assert PLANNED.handle(foreign, T0) == Step(PLANNED)


def test_member_that_is_back_gets_the_plan_again_until_its_keys_are_there() -> None:
    away = replace(PLANNED, live=frozenset({A, B, C, D}))
    assert away.handle(NodeUp(E), T0) == Step(PLANNED, (SendPlan(E),))
    known = replace(away, keys=keys(E))
    assert known.handle(NodeUp(E), T0) == Step(replace(PLANNED, keys=keys(E)))


def test_missing_keys_abort_after_their_time() -> None:
    waiting = replace(PLANNED, keys=keys(A, B, C))
    assert waiting.wake == T0 + KEYS_SECONDS
    assert waiting.handle(TimePassed(), T0 + KEYS_SECONDS - 0.001) == Step(waiting)
    late = aborted(waiting, "no_keys", "no keys for the plan came from d, e")
    assert waiting.handle(TimePassed(), T0 + KEYS_SECONDS) == late


# Dealing and receipts.


def test_dealing_is_durable_before_any_member_gets_its_part() -> None:
    step = DEALING.handle(DealingMade(DEALT), T0)
    assert step == Step(IS_DEALT, (Persist(Phase.DEALT, dealt=DEALT), *(prepare(node) for node in NODES)))


def test_node_with_two_seats_gets_both_parts_in_one_message() -> None:
    plan = replace(PLAN, seats=((1, A), (2, B), (3, A)), needed=2)
    dealt = replace(DEALT, sealed=(b"s1", b"s2", b"s3"))
    step = replace(PLANNED, plan=plan).handle(DealingMade(dealt), T0)
    assert step.do == (
        Persist(Phase.DEALT, dealt=dealt),
        SendPrepare(A, b"configuration", b"dealing", ((1, 0, b"s1"), (3, 0, b"s3"))),
        SendPrepare(B, b"configuration", b"dealing", ((2, 0, b"s2"),)),
    )


@pytest.mark.parametrize(
    "late", [Phase.DEALT, Phase.COMMITTED, Phase.CLOSED, Phase.ABORTED], ids=lambda phase: phase.value
)
def test_dealing_that_comes_too_late_is_ignored(late: Phase) -> None:
    over = replace(IS_DEALT, phase=late)
    assert over.handle(DealingMade(replace(DEALT, dealing=b"another")), T0) == Step(over)


def test_last_live_members_receipt_commits_in_one_record_before_the_certificate_leaves() -> None:
    waiting = replace(IS_DEALT, receipts=receipts(A, B, C, D))
    step = waiting.handle(prepared_came(E), T0 + 0.1)
    certificate = tuple(RECEIPTS.values())
    assert step == Step(
        replace(COMMITTED, since=T0 + 0.1),
        (Persist(Phase.COMMITTED, receipts=certificate), *(commit(node) for node in NODES)),
    )


def test_enough_receipts_still_wait_for_every_live_member() -> None:
    waiting = replace(IS_DEALT, receipts=receipts(A, B, C))
    step = waiting.handle(prepared_came(D), T0)
    assert step == Step(replace(IS_DEALT, receipts=receipts(A, B, C, D)))
    assert step.state.wake == T0 + PREPARE_SECONDS
    after = step.state.handle(TimePassed(), T0 + PREPARE_SECONDS)
    assert after.state.phase is Phase.COMMITTED
    assert after.do[0] == Persist(Phase.COMMITTED, receipts=tuple(receipts(A, B, C, D).values()))


def test_enough_receipts_do_not_wait_for_a_member_that_went_down() -> None:
    waiting = replace(IS_DEALT, receipts=receipts(A, B, C, D))
    step = waiting.handle(NodeDown(E), T0)
    four = (A, B, C, D)
    certificate = tuple(receipts(*four).values())
    assert step.do == (
        Persist(Phase.COMMITTED, receipts=certificate),
        *(commit(node, *four) for node in four),
    )


def test_threshold_without_the_margin_never_commits() -> None:
    three = replace(IS_DEALT, receipts=receipts(A, B, C), live=frozenset({A, B, C}))
    assert three.handle(prepared_came(A), T0) == Step(three)
    assert three.handle(TimePassed(), T0 + PREPARE_SECONDS) == Step(three)
    assert three.wake == T0 + GIVE_UP_SECONDS
    late = aborted(three, "not_prepared", "3 of 4 receipts; none from d, e")
    assert three.handle(TimePassed(), T0 + GIVE_UP_SECONDS) == late


@pytest.mark.parametrize(
    "foreign",
    [
        PreparedCame(E, b"another hash", receipts(E)),
        PreparedCame(X, b"configuration hash", receipts(E)),
        PreparedCame(A, b"configuration hash", receipts(E)),
        PreparedCame(E, b"configuration hash", {9: b"no seat"}),
    ],
)
def test_receipt_that_is_not_its_senders_does_not_count(foreign: PreparedCame) -> None:
    waiting = replace(IS_DEALT, receipts=receipts(A, B, C, D))
    assert waiting.handle(foreign, T0) == Step(waiting)


def test_member_that_is_back_is_asked_to_prepare_until_its_receipt_is_there() -> None:
    away = replace(IS_DEALT, live=frozenset({A, B, C, D}))
    assert away.handle(NodeUp(E), T0) == Step(IS_DEALT, (prepare(E),))
    known = replace(away, receipts=receipts(E))
    assert known.handle(NodeUp(E), T0) == Step(replace(IS_DEALT, receipts=receipts(E)))


# Refusals.


@pytest.mark.parametrize("before", [PLANNED, DEALING, IS_DEALT])
def test_refusal_before_the_commit_aborts_and_names_the_culprits(before: Attempt) -> None:
    refused = RefusedCame(B, b"plan hash", "bad_share", "the share is wrong", ("hub",))
    assert before.handle(refused, T0) == aborted(before, "bad_share", "b: the share is wrong", ("hub",))


def test_refusal_of_the_hubs_own_module_aborts() -> None:
    refused = RefusedCame(HUB, b"plan hash", "bad_state", "dealt for this number before")
    assert DEALING.handle(refused, T0) == aborted(DEALING, "bad_state", "hub: dealt for this number before")


def test_node_that_is_no_member_aborts_nothing() -> None:
    refused = RefusedCame(X, b"plan hash", "bad_share", "I do not like it")
    assert IS_DEALT.handle(refused, T0) == Step(IS_DEALT)


def test_refusal_of_another_plan_aborts_nothing() -> None:
    assert IS_DEALT.handle(RefusedCame(B, b"another", "bad_share", "late"), T0) == Step(IS_DEALT)


def test_nothing_undoes_a_commit() -> None:
    for event in (
        RefusedCame(B, b"plan hash", "bad_share", "too late"),
        NodeDown(B),
        prepared_came(B),
        keys_came(B),
        DealingMade(DEALT),
    ):
        step = COMMITTED.handle(event, T0)
        assert step.state.phase is Phase.COMMITTED
        assert step.do == ()


# After the commit.


def test_creation_is_finished_when_every_live_member_has_activated() -> None:
    four = replace(COMMITTED, live=frozenset({A, B, C, D}), activated=frozenset({1, 2, 3}))
    step = four.handle(activated_came(D), T0)
    done = replace(four, activated=frozenset({1, 2, 3, 4}), told=True)
    assert step == Step(done, (Finished(committed=True),))
    assert done.wake is None
    assert done.handle(activated_came(D), T0) == Step(done), "it is said once"


def test_creation_is_finished_even_if_somebody_does_not_activate() -> None:
    waiting = replace(COMMITTED, activated=frozenset({1, 2, 3}))
    assert waiting.wake == T0 + PREPARE_SECONDS
    step = waiting.handle(TimePassed(), T0 + PREPARE_SECONDS)
    assert step == Step(replace(waiting, told=True), (Finished(committed=True),))


def test_member_that_is_back_gets_the_certificate_until_it_has_activated() -> None:
    away = replace(COMMITTED, live=frozenset({A, B, C, D}), activated=frozenset({1, 2, 3, 4}), told=True)
    back = away.handle(NodeUp(E), T0)
    assert back == Step(replace(away, live=frozenset(NODES)), (commit(E),))
    step = back.state.handle(activated_came(E), T0)
    closed = replace(back.state, phase=Phase.CLOSED, activated=frozenset(range(1, 6)))
    assert step == Step(closed, (Persist(Phase.CLOSED),))


@pytest.mark.parametrize("live", [frozenset(), frozenset({A})])
def test_commit_does_not_count_as_activated_because_everybody_is_away(live: frozenset[NodeId]) -> None:
    last = replace(COMMITTED, live=live | {B})
    step = last.handle(NodeDown(B), T0)
    assert step == Step(replace(COMMITTED, live=live))


@pytest.mark.parametrize(
    "foreign",
    [
        ActivatedCame(A, b"another hash", (1,)),
        ActivatedCame(X, b"configuration hash", (1,)),
        ActivatedCame(A, b"configuration hash", (2, 9)),
    ],
)
def test_activated_that_is_not_its_senders_does_not_count(foreign: ActivatedCame) -> None:
    assert COMMITTED.handle(foreign, T0) == Step(COMMITTED)


# A restart of the hub.


def resumed(phase: Phase, dealt: Dealt | None = None, known: dict[int, bytes] | None = None) -> Step:
    return Attempt.resume(PLAN, phase, dealt, known or {}, T0)


def test_restart_before_the_dealing_aborts_and_burns_the_number() -> None:
    away = replace(PLANNED, live=frozenset())
    assert resumed(Phase.PLANNED) == aborted(away, "restarted", "the hub restarted before it had dealt")


def test_restart_while_preparing_collects_again_from_those_that_come_back() -> None:
    step = resumed(Phase.DEALT, DEALT)
    assert step == Step(replace(IS_DEALT, live=frozenset()))
    attempt = step.state
    for node in (A, B, C, D):
        back = attempt.handle(NodeUp(node), T0)
        assert back.do == (prepare(node),)
        came = back.state.handle(prepared_came(node), T0)
        attempt = came.state
    assert came.do[0] == Persist(Phase.COMMITTED, receipts=tuple(receipts(A, B, C, D).values()))


def test_restart_after_the_commit_sends_it_again() -> None:
    step = resumed(Phase.COMMITTED, DEALT, RECEIPTS)
    assert step.do == ()
    assert step.state.handle(NodeUp(C), T0).do == (commit(C),)


# The whole, with everything lost and repeated that can be.


@pytest.mark.parametrize("repeats", [1, 3])
def test_creation_from_plan_to_end_is_the_same_with_repeated_messages(repeats: int) -> None:
    step = Attempt.begin(PLAN, frozenset(NODES), T0)
    attempt, done = step.state, list(step.do)

    def feed(event: Event) -> tuple[Action, ...]:
        nonlocal attempt
        out: tuple[Action, ...] = ()
        for _ in range(repeats):
            following = attempt.handle(event, T0)
            attempt = following.state
            out += following.do
        return out

    for made in (keys_came, prepared_came, activated_came):
        for node in NODES:
            done += feed(made(node))
        if made is keys_came:
            done += feed(DealingMade(DEALT))
    assert done == [
        Persist(Phase.PLANNED),
        *(SendPlan(node) for node in NODES),
        Deal(tuple(KEYS.values())),
        Persist(Phase.DEALT, dealt=DEALT),
        *(prepare(node) for node in NODES),
        Persist(Phase.COMMITTED, receipts=tuple(RECEIPTS.values())),
        *(commit(node) for node in NODES),
        Persist(Phase.CLOSED),
        Finished(committed=True),
    ]
    assert attempt.phase is Phase.CLOSED
    assert attempt.wake is None
