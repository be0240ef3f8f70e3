"""An attempt at an epoch at the hub, up to its commit: one input, the whole step."""

from dataclasses import replace

import pytest

from quorate.ids import HUB, NodeId
from quorate.protocol.epoch_change import (
    DEAL_SECONDS,
    GIVE_UP_SECONDS,
    KEYS_SECONDS,
    PREPARE_SECONDS,
    Action,
    Attempt,
    Cancelled,
    Configure,
    Configured,
    Deal,
    DealingsCame,
    Dealt,
    Event,
    Finished,
    KeysCame,
    Made,
    NodeDown,
    NodeUp,
    Persist,
    Phase,
    Plan,
    PreparedCame,
    RefusedCame,
    SendAbort,
    SendDeal,
    SendPlan,
    SendPrepare,
    Step,
    TimePassed,
)

A, B, C, D, E, X = (NodeId(name) for name in "abcdex")
NODES = (A, B, C, D, E)
PLAN = Plan(b"plan hash", b"plan", b"charter", tuple(enumerate(NODES, start=1)), needed=4)
SEALED = (b"s1", b"s2", b"s3", b"s4", b"s5")
MADE: Made = (b"dealing", SEALED)
DEALT = Dealt((b"dealing",), (SEALED,), b"configuration", b"configuration hash")
KEYS = {index: b"key %d" % index for index in range(1, 6)}
RECEIPTS = {index: b"receipt %d" % index for index in range(1, 6)}
T0 = 100.0

PLANNED = Attempt(PLAN, frozenset(NODES), Phase.PLANNED, T0)
DEALING = replace(PLANNED, keys=KEYS, dealing=True)
IS_DEALT = replace(PLANNED, phase=Phase.DEALT, dealt=DEALT)
COMMITTED = replace(IS_DEALT, phase=Phase.COMMITTED, receipts=RECEIPTS)

# A change of the same committee: 3 of 5, dealt by a, b and c.
CHANGE = replace(PLAN, dealers=((A, 1), (B, 2), (C, 3)))
FOUR = (A, B, C, D)
CHANGING = replace(PLANNED, plan=CHANGE)
ASKED = replace(DEALING, plan=CHANGE)
PARTS: tuple[Made, ...] = tuple(
    (b"dealing of %d" % dealer, tuple(b"s%d%d" % (dealer, index) for index in range(1, 6)))
    for dealer in (1, 2, 3)
)
"""What a, b and c deal, in this order."""
CHANGED = Dealt(
    tuple(dealing for dealing, _ in PARTS),
    tuple(sealed for _, sealed in PARTS),
    b"configuration",
    b"configuration hash",
)
IS_CHANGED = replace(CHANGING, phase=Phase.DEALT, dealt=CHANGED)


def keys(*nodes: NodeId) -> dict[int, bytes]:
    return {index: KEYS[index] for index, node in PLAN.seats if node in nodes}


def receipts(*nodes: NodeId) -> dict[int, bytes]:
    return {index: RECEIPTS[index] for index, node in PLAN.seats if node in nodes}


def keys_came(node: NodeId) -> KeysCame:
    return KeysCame(node, b"plan hash", keys(node))


def dealings_came(node: NodeId, *made: Made) -> DealingsCame:
    return DealingsCame(node, b"plan hash", made or (PARTS[NODES.index(node)],))


def prepared_came(node: NodeId) -> PreparedCame:
    return PreparedCame(node, b"configuration hash", receipts(node))


def refused_came(node: NodeId, *culprits: str) -> RefusedCame:
    return RefusedCame(node, b"plan hash", "bad_state", "no", culprits)


def prepare(node: NodeId, dealt: Dealt = DEALT) -> SendPrepare:
    at = NODES.index(node)
    own = tuple((at + 1, position, sealed[at]) for position, sealed in enumerate(dealt.sealed))
    return SendPrepare(node, b"configuration", dealt.dealings, own)


def aborted(attempt: Attempt, code: str, reason: str, culprits: tuple[str, ...] = ()) -> Step:
    over = replace(attempt, phase=Phase.ABORTED, keys={}, made={}, dealing=False)
    sends = tuple(SendAbort(node, reason) for node in NODES)
    finished = Finished(committed=False, code=code, reason=reason, culprits=culprits)
    return Step(over, (Persist(Phase.ABORTED, reason=reason), *sends, finished))


def committed(attempt: Attempt, at: float, *by: NodeId) -> Step:
    over = replace(attempt, phase=Phase.COMMITTED, since=at, receipts=receipts(*by))
    certificate = tuple(receipts(*by).values())
    return Step(over, (Persist(Phase.COMMITTED, receipts=certificate), Finished(committed=True)))


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
    step = waiting.handle(keys_came(A), T0 + 1)
    assert step == Step(replace(DEALING, since=T0 + 1), (Deal(tuple(KEYS.values())),))


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
    away = replace(PLANNED, live=frozenset(FOUR))
    assert away.handle(NodeUp(E), T0) == Step(PLANNED, (SendPlan(E),))
    known = replace(away, keys=keys(E))
    assert known.handle(NodeUp(E), T0) == Step(replace(PLANNED, keys=keys(E)))


def test_node_that_has_no_part_in_the_change_is_not_told_of_it() -> None:
    for attempt in (PLANNED, CHANGING, IS_DEALT):
        assert attempt.handle(NodeUp(X), T0) == Step(attempt)


def test_missing_keys_abort_after_their_time() -> None:
    waiting = replace(PLANNED, keys=keys(A, B, C))
    assert waiting.wake == T0 + KEYS_SECONDS
    assert waiting.handle(TimePassed(), T0 + KEYS_SECONDS - 0.001) == Step(waiting)
    late = aborted(waiting, "no_keys", "no keys for the plan came from d, e")
    assert waiting.handle(TimePassed(), T0 + KEYS_SECONDS) == late


def test_creation_waits_for_a_member_that_went_down() -> None:
    waiting = replace(PLANNED, keys=keys(A, B, C, D))
    down = waiting.handle(NodeDown(E), T0)
    assert down == Step(replace(waiting, live=frozenset(FOUR)))
    assert down.state.handle(NodeUp(E), T0) == Step(waiting, (SendPlan(E),))


# The hub's dealing, and receipts.


def test_the_hubs_dealing_is_made_a_configuration() -> None:
    step = DEALING.handle(DealingsCame(HUB, b"plan hash", (MADE,)), T0)
    assert step == Step(replace(DEALING, made={HUB: (MADE,)}), (Configure((MADE,)),))


def test_dealing_is_durable_before_any_member_gets_its_part() -> None:
    step = replace(DEALING, made={HUB: (MADE,)}).handle(Configured(DEALT), T0 + 1)
    dealt = replace(IS_DEALT, since=T0 + 1)
    assert step == Step(dealt, (Persist(Phase.DEALT, dealt=DEALT), *(prepare(node) for node in NODES)))


def test_node_with_two_seats_gets_both_parts_in_one_message() -> None:
    plan = replace(PLAN, seats=((1, A), (2, B), (3, A)), needed=2)
    dealt = replace(DEALT, sealed=((b"s1", b"s2", b"s3"),))
    step = replace(DEALING, plan=plan).handle(Configured(dealt), T0)
    assert step.do == (
        Persist(Phase.DEALT, dealt=dealt),
        SendPrepare(A, b"configuration", (b"dealing",), ((1, 0, b"s1"), (3, 0, b"s3"))),
        SendPrepare(B, b"configuration", (b"dealing",), ((2, 0, b"s2"),)),
    )


@pytest.mark.parametrize(
    "late", [Phase.DEALT, Phase.COMMITTED, Phase.CLOSED, Phase.ABORTED], ids=lambda phase: phase.value
)
def test_dealing_that_comes_too_late_is_ignored(late: Phase) -> None:
    over = replace(IS_DEALT, phase=late)
    assert over.handle(DealingsCame(HUB, b"plan hash", (MADE,)), T0) == Step(over)
    assert over.handle(Configured(replace(DEALT, configuration=b"another")), T0) == Step(over)


def test_dealing_that_does_not_come_aborts_after_its_time() -> None:
    assert DEALING.wake == T0 + DEAL_SECONDS
    assert DEALING.handle(TimePassed(), T0 + DEAL_SECONDS - 0.001) == Step(DEALING)
    late = aborted(DEALING, "no_dealing", "no dealing came from hub")
    assert DEALING.handle(TimePassed(), T0 + DEAL_SECONDS) == late


def test_last_live_members_receipt_commits_in_one_record_before_it_is_finished() -> None:
    waiting = replace(IS_DEALT, receipts=receipts(*FOUR))
    assert waiting.handle(prepared_came(E), T0 + 0.1) == committed(IS_DEALT, T0 + 0.1, *NODES)


def test_enough_receipts_still_wait_for_every_live_member() -> None:
    waiting = replace(IS_DEALT, receipts=receipts(A, B, C))
    step = waiting.handle(prepared_came(D), T0)
    assert step == Step(replace(IS_DEALT, receipts=receipts(*FOUR)))
    assert step.state.wake == T0 + PREPARE_SECONDS
    after = step.state.handle(TimePassed(), T0 + PREPARE_SECONDS)
    assert after == committed(IS_DEALT, T0 + PREPARE_SECONDS, *FOUR)


def test_enough_receipts_do_not_wait_for_a_member_that_went_down() -> None:
    waiting = replace(IS_DEALT, receipts=receipts(*FOUR))
    step = waiting.handle(NodeDown(E), T0)
    assert step == committed(replace(IS_DEALT, live=frozenset(FOUR)), T0, *FOUR)


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
def test_n45_receipt_that_is_not_its_senders_does_not_count(foreign: PreparedCame) -> None:
    waiting = replace(IS_DEALT, receipts=receipts(*FOUR))
    assert waiting.handle(foreign, T0) == Step(waiting)


def test_member_that_is_back_is_asked_to_prepare_until_its_receipt_is_there() -> None:
    away = replace(IS_DEALT, live=frozenset(FOUR))
    assert away.handle(NodeUp(E), T0) == Step(IS_DEALT, (prepare(E),))
    known = replace(away, receipts=receipts(E))
    assert known.handle(NodeUp(E), T0) == Step(replace(IS_DEALT, receipts=receipts(E)))


# A change dealt by members: plan and keys.


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        ({A, B, D, E}, "c cannot be reached"),
        ({D, E}, "a, b, c cannot be reached"),
        ({A, B, C}, "d, e cannot be reached"),
    ],
)
def test_change_without_a_dealer_or_without_enough_members_is_aborted(live: set[NodeId], reason: str) -> None:
    step = Attempt.begin(CHANGE, frozenset(live), T0)
    over = aborted(replace(CHANGING, live=frozenset(live)), "not_live", reason)
    assert step == Step(over.state, (Persist(Phase.PLANNED), *over.do))


def test_change_is_planned_with_those_that_are_there() -> None:
    assert Attempt.begin(CHANGE, frozenset({*FOUR, X}), T0) == Step(
        replace(CHANGING, live=frozenset(FOUR)), (Persist(Phase.PLANNED), *(SendPlan(node) for node in FOUR))
    )


def test_dealers_are_asked_with_the_last_key_that_can_come_and_absent_members_left_out() -> None:
    without_e = replace(CHANGING, live=frozenset(FOUR), keys=keys(A, B, C))
    step = without_e.handle(keys_came(D), T0 + 1)
    asked = replace(without_e, keys=keys(*FOUR), dealing=True, since=T0 + 1)
    sent = tuple(KEYS[index] for index in (1, 2, 3, 4))
    assert step == Step(asked, tuple(SendDeal(node, sent) for node in (A, B, C)))


def test_dealer_that_is_no_member_is_waited_for_but_makes_no_key() -> None:
    plan = replace(CHANGE, dealers=((A, 1), (B, 2), (X, 3)))
    step = Attempt.begin(plan, frozenset({*NODES, X}), T0)
    assert step.do == (Persist(Phase.PLANNED), *(SendPlan(node) for node in NODES))
    ready = replace(step.state, keys=keys(*FOUR)).handle(keys_came(E), T0)
    assert ready.do == tuple(SendDeal(node, tuple(KEYS.values())) for node in (A, B, X))
    assert ready.state.waits_for == (A, B, X)


def test_dealer_with_two_indices_is_asked_once() -> None:
    plan = replace(CHANGE, dealers=((A, 1), (B, 2), (A, 6)))
    step = replace(CHANGING, plan=plan, keys=keys(*FOUR)).handle(keys_came(E), T0)
    assert step.do == tuple(SendDeal(node, tuple(KEYS.values())) for node in (A, B))


def test_change_goes_on_without_a_member_that_goes_down_before_its_keys_came() -> None:
    waiting = replace(CHANGING, keys=keys(*FOUR))
    step = waiting.handle(NodeDown(E), T0)
    asked = replace(waiting, live=frozenset(FOUR), dealing=True)
    sent = tuple(KEYS[index] for index in (1, 2, 3, 4))
    assert step == Step(asked, tuple(SendDeal(node, sent) for node in (A, B, C)))


@pytest.mark.parametrize(("down", "live"), [(C, {A, B, D, E}), (D, {A, B, C})])
def test_change_is_aborted_when_it_loses_a_dealer_or_too_many_members(
    down: NodeId, live: set[NodeId]
) -> None:
    waiting = replace(CHANGING, live=frozenset(live | {down}), keys=keys(A, B))
    lost = aborted(replace(waiting, live=frozenset(live)), "not_live", "lost c" if down == C else "lost d, e")
    assert waiting.handle(NodeDown(down), T0) == lost


def test_change_deals_without_the_keys_that_did_not_come_in_time_if_enough_did() -> None:
    waiting = replace(CHANGING, keys=keys(*FOUR))
    assert waiting.handle(TimePassed(), T0 + KEYS_SECONDS - 0.001) == Step(waiting)
    step = waiting.handle(TimePassed(), T0 + KEYS_SECONDS)
    sent = tuple(KEYS[index] for index in (1, 2, 3, 4))
    asked = replace(waiting, dealing=True, since=T0 + KEYS_SECONDS)
    assert step == Step(asked, tuple(SendDeal(node, sent) for node in (A, B, C)))

    few = replace(CHANGING, keys=keys(A, B, C))
    late = aborted(few, "no_keys", "no keys for the plan came from d, e")
    assert few.handle(TimePassed(), T0 + KEYS_SECONDS) == late


# A change dealt by members: dealings.


def test_change_is_configured_with_the_last_dealing_in_the_plans_order_of_dealers() -> None:
    asked = replace(ASKED, made={C: (PARTS[2],), B: (PARTS[1],)})
    step = asked.handle(dealings_came(A), T0)
    assert step == Step(replace(asked, made={**asked.made, A: (PARTS[0],)}), (Configure(PARTS),))


def test_dealings_of_one_dealer_stand_at_its_places_in_the_plan() -> None:
    plan = replace(CHANGE, dealers=((A, 1), (B, 2), (A, 6)))
    asked = replace(ASKED, plan=plan, made={A: (PARTS[0], PARTS[2])})
    assert asked.handle(dealings_came(B), T0).do == (Configure(PARTS),)


@pytest.mark.parametrize(
    "foreign",
    [
        DealingsCame(A, b"another plan", (PARTS[0],)),
        DealingsCame(D, b"plan hash", (PARTS[0],)),
        DealingsCame(HUB, b"plan hash", (PARTS[0],)),
        DealingsCame(B, b"plan hash", (PARTS[0],)),
    ],
    ids=["another plan", "no dealer", "the hub", "again"],
)
def test_dealing_of_another_plan_or_of_no_dealer_or_a_second_one_changes_nothing(
    foreign: DealingsCame,
) -> None:
    asked = replace(ASKED, made={B: (PARTS[1],)})
    assert asked.handle(foreign, T0) == Step(asked)


def test_dealing_that_nobody_asked_for_changes_nothing() -> None:
    assert CHANGING.handle(dealings_came(A), T0) == Step(CHANGING)


@pytest.mark.parametrize(
    "wrong",
    [(), (PARTS[0], PARTS[0]), ((b"dealing of 1", SEALED[:4]),), ((b"dealing of 1", (*SEALED, b"s6")),)],
    ids=["none", "two", "a part too few", "a part too many"],
)
def test_dealings_of_another_number_or_shape_abort_and_name_their_dealer(wrong: tuple[Made, ...]) -> None:
    step = ASKED.handle(DealingsCame(A, b"plan hash", wrong), T0)
    after = replace(ASKED, made={A: wrong})
    assert step == aborted(after, "bad_dealing", "a sent something else than its dealings", ("a",))


def test_dealing_that_a_member_does_not_send_aborts_after_its_time() -> None:
    asked = replace(ASKED, made={A: (PARTS[0],)})
    assert asked.wake == T0 + DEAL_SECONDS
    late = aborted(asked, "no_dealing", "no dealing came from b, c")
    assert asked.handle(TimePassed(), T0 + DEAL_SECONDS) == late


def test_dealer_that_is_back_is_not_asked_for_a_second_dealing() -> None:
    down = ASKED.handle(NodeDown(B), T0)
    assert down == Step(replace(ASKED, live=frozenset({A, C, D, E})))
    assert down.state.handle(NodeUp(B), T0) == Step(ASKED)


def test_every_member_prepares_what_each_dealer_dealt_to_it() -> None:
    step = ASKED.handle(Configured(CHANGED), T0 + 1)
    prepares = tuple(prepare(node, CHANGED) for node in NODES)
    assert step == Step(replace(IS_CHANGED, since=T0 + 1), (Persist(Phase.DEALT, dealt=CHANGED), *prepares))
    assert prepares[3].sealed == ((4, 0, b"s14"), (4, 1, b"s24"), (4, 2, b"s34"))


def test_member_that_lacks_a_part_of_any_dealing_prepares_nothing() -> None:
    first, second, third = CHANGED.sealed
    dealt = replace(CHANGED, sealed=((*first[:4], b""), (*second[:3], b"", b""), (*third[:4], b"")))
    step = ASKED.handle(Configured(dealt), T0)
    assert step.do[1:] == tuple(prepare(node, dealt) for node in (A, B, C))
    assert step.state.waits_for == (A, B, C)
    assert step.state.handle(NodeUp(D), T0) == Step(step.state)


def test_change_commits_without_the_member_that_was_dealt_nothing() -> None:
    left_out = replace(CHANGED, sealed=tuple((*sealed[:4], b"") for sealed in CHANGED.sealed))
    waiting = replace(IS_CHANGED, dealt=left_out, receipts=receipts(A, B, C))
    assert waiting.handle(prepared_came(D), T0 + 1) == committed(waiting, T0 + 1, *FOUR)


# Refusals.


@pytest.mark.parametrize("before", [PLANNED, DEALING, IS_DEALT])
def test_refusal_before_the_commit_aborts_a_creation(before: Attempt) -> None:
    over = aborted(before, "bad_state", "b: no")
    assert before.handle(refused_came(B), T0) == over


@pytest.mark.parametrize("before", [DEALING, ASKED, CHANGING, IS_CHANGED])
def test_refusal_of_the_hubs_own_module_aborts_and_names_the_culprits(before: Attempt) -> None:
    refused = RefusedCame(HUB, b"plan hash", "bad_commitments", "not its share", ("a",))
    over = aborted(before, "bad_commitments", "hub: not its share", ("a",))
    assert before.handle(refused, T0) == over


def test_node_that_is_no_member_aborts_nothing() -> None:
    for attempt in (IS_DEALT, CHANGING, ASKED, IS_CHANGED):
        assert attempt.handle(refused_came(X, "a"), T0) == Step(attempt)


def test_refusal_of_another_plan_aborts_nothing() -> None:
    assert IS_DEALT.handle(RefusedCame(B, b"another", "bad_share", "late"), T0) == Step(IS_DEALT)


def test_change_goes_on_without_a_member_that_refuses_the_plan() -> None:
    waiting = replace(CHANGING, keys=keys(*FOUR))
    step = waiting.handle(refused_came(E), T0)
    asked = replace(waiting, out=frozenset({E}), dealing=True)
    sent = tuple(KEYS[index] for index in (1, 2, 3, 4))
    assert step == Step(asked, tuple(SendDeal(node, sent) for node in (A, B, C)))


def test_change_that_too_many_refuse_is_aborted() -> None:
    one_out = replace(CHANGING, out=frozenset({E}))
    over = aborted(one_out, "bad_state", "d: no")
    assert one_out.handle(refused_came(D), T0) == over


@pytest.mark.parametrize("before", [CHANGING, ASKED], ids=["planned", "dealing"])
def test_refusal_of_a_dealer_aborts_until_all_is_dealt(before: Attempt) -> None:
    over = aborted(before, "bad_state", "b: no")
    assert before.handle(refused_came(B), T0) == over


def test_change_goes_on_without_a_member_that_refuses_its_parts() -> None:
    waiting = replace(IS_CHANGED, receipts=receipts(B, C, D))
    step = waiting.handle(refused_came(E), T0)
    assert step == Step(replace(waiting, out=frozenset({E})))
    done = step.state.handle(prepared_came(A), T0 + 1)
    assert done == committed(replace(waiting, out=frozenset({E})), T0 + 1, *FOUR)


@pytest.mark.parametrize("before", [CHANGING, IS_CHANGED], ids=["planned", "dealt"])
def test_n95_whom_a_member_blames_without_proof_is_not_believed(before: Attempt) -> None:
    """The change goes on, without the one that refuses."""
    assert before.handle(refused_came(E, "b"), T0) == Step(replace(before, out=frozenset({E})))
    creation = IS_DEALT.handle(refused_came(E, "b"), T0)
    assert creation == aborted(IS_DEALT, "bad_state", "e: no")


@pytest.mark.parametrize(
    "before", [PLANNED, DEALING, IS_DEALT, CHANGING, ASKED, IS_CHANGED], ids=lambda a: a.phase.value
)
def test_operator_gives_an_attempt_up_at_any_time_before_the_commit(before: Attempt) -> None:
    assert before.handle(Cancelled("the operator: b is being replaced"), T0) == aborted(
        before, "cancelled", "the operator: b is being replaced"
    )


@pytest.mark.parametrize("plan", [PLAN, CHANGE], ids=["creation", "change"])
@pytest.mark.parametrize("over", [Phase.COMMITTED, Phase.CLOSED, Phase.ABORTED], ids=lambda p: p.value)
def test_nothing_undoes_a_commit_nor_an_abort(over: Phase, plan: Plan) -> None:
    ended = replace(COMMITTED, plan=plan, phase=over)
    assert ended.wake is None
    assert ended.waits_for == ()
    for event in (
        RefusedCame(B, b"plan hash", "bad_share", "too late", ("hub",)),
        RefusedCame(HUB, b"plan hash", "bad_share", "too late"),
        Cancelled("too late"),
        NodeDown(B),
        NodeUp(B),
        prepared_came(B),
        keys_came(B),
        dealings_came(B),
        Configured(DEALT),
        TimePassed(),
    ):
        assert ended.handle(event, T0 + 100) == Step(ended)


# Who is waited for.


@pytest.mark.parametrize(
    ("attempt", "names"),
    [
        (replace(CHANGING, keys=keys(A, B)), (C, D, E)),
        (replace(CHANGING, keys=keys(A, B), live=frozenset(FOUR)), (C, D)),
        (replace(CHANGING, keys=keys(A, B), out=frozenset({E})), (C, D)),
        (replace(ASKED, made={B: (PARTS[1],)}), (A, C)),
        (DEALING, (HUB,)),
        (replace(IS_CHANGED, receipts=receipts(A, E)), (B, C, D)),
        (COMMITTED, ()),
    ],
)
def test_who_is_waited_for(attempt: Attempt, names: tuple[NodeId, ...]) -> None:
    assert attempt.waits_for == names


# A restart of the hub.


def resumed(phase: Phase, dealt: Dealt | None = None, plan: Plan = PLAN) -> Step:
    return Attempt.resume(plan, phase, dealt, T0)


def test_restart_before_the_dealing_aborts_and_burns_the_number() -> None:
    away = replace(PLANNED, live=frozenset())
    over = aborted(away, "restarted", "the hub restarted before the dealings had come")
    assert resumed(Phase.PLANNED) == over
    assert resumed(Phase.PLANNED, plan=CHANGE) == aborted(
        replace(away, plan=CHANGE), "restarted", "the hub restarted before the dealings had come"
    )


@pytest.mark.parametrize(("plan", "dealt"), [(PLAN, DEALT), (CHANGE, CHANGED)], ids=["creation", "change"])
def test_restart_while_preparing_collects_again_from_those_that_come_back(plan: Plan, dealt: Dealt) -> None:
    step = resumed(Phase.DEALT, dealt, plan)
    assert step == Step(replace(IS_DEALT, plan=plan, dealt=dealt, live=frozenset()))
    attempt = step.state
    for node in FOUR:
        back = attempt.handle(NodeUp(node), T0)
        assert back.do == (prepare(node, dealt),)
        came = back.state.handle(prepared_came(node), T0)
        attempt = came.state
    certificate = tuple(receipts(*FOUR).values())
    assert came.do == (Persist(Phase.COMMITTED, receipts=certificate), Finished(committed=True))


# The whole, with everything repeated that can be.


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("creates", [True, False], ids=["creation", "change"])
def test_attempt_from_plan_to_commit_is_the_same_with_repeated_messages(repeats: int, creates: bool) -> None:
    plan, dealt = (PLAN, DEALT) if creates else (CHANGE, CHANGED)
    step = Attempt.begin(plan, frozenset(NODES), T0)
    attempt, done = step.state, list(step.do)

    def feed(event: Event) -> tuple[Action, ...]:
        nonlocal attempt
        out: tuple[Action, ...] = ()
        for _ in range(repeats):
            following = attempt.handle(event, T0)
            attempt = following.state
            out += following.do
        return out

    for node in NODES:
        done += feed(keys_came(node))
    if creates:
        done += feed(DealingsCame(HUB, b"plan hash", (MADE,)))
    else:
        for node in (A, B, C):
            done += feed(dealings_came(node))
    done += feed(Configured(dealt))
    for node in NODES:
        done += feed(prepared_came(node))
    sent = tuple(KEYS.values())
    deals: list[Action] = [Deal(sent)] if creates else [SendDeal(node, sent) for node in (A, B, C)]
    assert done == [
        Persist(Phase.PLANNED),
        *(SendPlan(node) for node in NODES),
        *deals,
        Configure((MADE,) if creates else PARTS),
        Persist(Phase.DEALT, dealt=dealt),
        *(prepare(node, dealt) for node in NODES),
        Persist(Phase.COMMITTED, receipts=tuple(RECEIPTS.values())),
        Finished(committed=True),
    ]
    assert attempt.phase is Phase.COMMITTED
    assert attempt.wake is None
