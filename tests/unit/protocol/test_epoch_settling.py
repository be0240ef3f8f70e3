"""What follows a commit at the hub: one input, the whole step."""

from dataclasses import replace

import pytest

from quorate.ids import NodeId
from quorate.protocol.epoch_settling import (
    ACTIVATE_SECONDS,
    ActivatedCame,
    ErasedCame,
    Event,
    NodeDown,
    NodeUp,
    SendCommit,
    SendErase,
    Settled,
    Settling,
    Step,
    TakenUp,
    TimePassed,
)

A, B, C, D, E, F, X = (NodeId(name) for name in "abcdefx")
NODES = (A, B, C, D, E)
EVERYBODY = frozenset(NODES)
SEATS = tuple(enumerate(NODES, start=1))
RECEIPTS = {index: b"activated %d" % index for index in range(1, 6)}
T0 = 100.0

# 2 of 5: three indices must hold the epoch before anything is erased, with none of an earlier one.
FIRST = Settling(SEATS, 2, frozenset(), EVERYBODY, T0)
LATER = replace(FIRST, owing=EVERYBODY)


def receipts(*nodes: NodeId) -> dict[int, bytes]:
    return {index: RECEIPTS[index] for index, node in SEATS if node in nodes}


def activated_came(node: NodeId) -> ActivatedCame:
    return ActivatedCame(node, receipts(node))


def erase(node: NodeId, *of: NodeId) -> SendErase:
    return SendErase(node, tuple(receipts(*of).values()))


# The commit's certificate.


def test_certificate_goes_to_whoever_is_there_and_has_a_share_of_this_or_an_earlier_epoch() -> None:
    live = frozenset({A, B, F, X})
    step = Settling.begin(SEATS, 2, frozenset({C, F}), live, T0)
    begun = replace(FIRST, owing=frozenset({C, F}), live=live)
    assert step == Step(begun, (SendCommit(A), SendCommit(B), SendCommit(F)))


@pytest.mark.parametrize("back", [E, F], ids=["a member", "one that owes"])
def test_who_comes_back_is_sent_the_certificate(back: NodeId) -> None:
    away = replace(FIRST, owing=frozenset({F}), live=frozenset({A, B}))
    step = away.handle(NodeUp(back), T0)
    assert step == Step(replace(away, live=frozenset({A, B, back})), (SendCommit(back),))


def test_node_that_has_no_part_in_it_is_sent_nothing() -> None:
    assert LATER.handle(NodeUp(X), T0) == Step(LATER)


# Who has taken it up.


def test_it_is_taken_up_when_every_live_member_has_and_this_is_told_once() -> None:
    waiting = replace(FIRST, live=frozenset({A, B, C}), receipts=receipts(A, B))
    step = waiting.handle(activated_came(C), T0)
    told = replace(waiting, receipts=receipts(A, B, C), told=True)
    assert step == Step(told, (TakenUp(),))
    assert told.wake is None
    assert told.handle(activated_came(C), T0) == Step(told)
    assert told.handle(TimePassed(), T0 + ACTIVATE_SECONDS) == Step(told)


def test_it_is_taken_up_without_a_member_that_goes_down_or_has_no_share() -> None:
    waiting = replace(FIRST, receipts=receipts(A, B, C, D))
    down = waiting.handle(NodeDown(E), T0)
    assert down == Step(replace(waiting, live=EVERYBODY - {E}, told=True), (TakenUp(),))
    lagging = waiting.handle(ActivatedCame(E, {}), T0)
    assert lagging == Step(replace(waiting, lagging=frozenset({E}), told=True), (TakenUp(),))


def test_it_counts_as_taken_up_when_the_time_for_it_is_over() -> None:
    waiting = replace(FIRST, receipts=receipts(A))
    assert waiting.wake == T0 + ACTIVATE_SECONDS
    assert waiting.handle(TimePassed(), T0 + ACTIVATE_SECONDS - 0.001) == Step(waiting)
    step = waiting.handle(TimePassed(), T0 + ACTIVATE_SECONDS)
    assert step == Step(replace(waiting, told=True), (TakenUp(),))
    assert step.state.wake is None


@pytest.mark.parametrize("live", [frozenset(), frozenset({A})])
def test_it_is_not_taken_up_because_everybody_is_away(live: frozenset[NodeId]) -> None:
    last = replace(FIRST, live=live | {B})
    assert last.handle(NodeDown(B), T0) == Step(replace(FIRST, live=live))


# The erase certificate.


def test_erase_certificate_goes_to_all_who_owe_and_are_there_once_enough_indices_hold_the_epoch() -> None:
    two = replace(LATER, receipts=receipts(A, B), owing=EVERYBODY - {B}, live=EVERYBODY - {D})
    step = two.handle(activated_came(C), T0)
    assert step == Step(
        replace(two, receipts=receipts(A, B, C)), tuple(erase(node, A, B, C) for node in (A, C, E))
    )


def test_later_receipt_has_its_sender_erase_and_nobody_again() -> None:
    three = replace(LATER, receipts=receipts(A, B, C))
    step = three.handle(activated_came(D), T0)
    assert step == Step(replace(three, receipts=receipts(A, B, C, D)), (erase(D, A, B, C, D),))


def test_member_whose_receipt_comes_again_is_sent_the_erase_again_until_it_has() -> None:
    three = replace(LATER, receipts=receipts(A, B, C))
    assert three.handle(activated_came(A), T0) == Step(three, (erase(A, A, B, C),))
    done = replace(three, owing=EVERYBODY - {A})
    assert done.handle(activated_came(A), T0) == Step(done)


def test_first_epoch_has_nothing_to_erase() -> None:
    two = replace(FIRST, receipts=receipts(A, B))
    assert two.handle(activated_came(C), T0) == Step(replace(two, receipts=receipts(A, B, C)))


@pytest.mark.parametrize(
    ("seats", "threshold", "needed"), [(5, 2, 3), (5, 3, 5), (5, 4, 5), (3, 2, 3), (4, 2, 3), (7, 4, 7)]
)
def test_erase_takes_receipts_of_enough_distinct_indices(seats: int, threshold: int, needed: int) -> None:
    """2k − 1 of them, or all: with k − 1 liars, k do hold the epoch."""
    committee = tuple((index, NodeId(f"n{index}")) for index in range(1, seats + 1))
    settling = Settling(committee, threshold, frozenset(), frozenset(), T0)
    for index, node in committee:
        assert len(settling.certificate) == (0 if index <= needed else index - 1)
        settling = settling.handle(ActivatedCame(node, {index: b"r%d" % index}), T0).state
    assert settling.certificate == tuple(b"r%d" % index for index in range(1, seats + 1))


def test_n99_indices_count_and_not_nodes() -> None:
    # a holds three of five indices; two nodes are enough where three indices are needed.
    seats = ((1, A), (2, A), (3, A), (4, B), (5, C))
    begun = Settling(seats, 2, frozenset({A, B}), frozenset({A, B, C}), T0)
    assert begun.handle(ActivatedCame(A, {1: b"1", 2: b"2"}), T0).state.certificate == ()
    step = begun.handle(ActivatedCame(A, {1: b"1", 2: b"2", 3: b"3"}), T0)
    assert step.do == (SendErase(A, (b"1", b"2", b"3")), SendErase(B, (b"1", b"2", b"3")))


def test_n45_receipts_count_only_for_the_seats_of_their_sender() -> None:
    waiting = replace(LATER, receipts=receipts(A, B), lagging=frozenset({E}))
    foreign = (
        ActivatedCame(A, {1: RECEIPTS[1], 3: b"for c"}),
        ActivatedCame(E, {4: b"for d"}),
        ActivatedCame(X, {3: b"a receipt of x"}),
        ActivatedCame(X, {}),
        ActivatedCame(B, {2: RECEIPTS[2], 9: b"no seat"}),
    )
    for event in foreign:
        assert waiting.handle(event, T0) == Step(waiting)


# Members without a share.


def test_lagging_member_is_never_sent_an_erase() -> None:
    """It has no share of this epoch: what it has of an earlier one may be the last there is."""
    two = replace(LATER, receipts=receipts(A, B))
    behind = two.handle(ActivatedCame(E, {}), T0)
    assert behind == Step(replace(two, lagging=frozenset({E})))
    enough = behind.state.handle(activated_came(C), T0)
    assert enough.do == tuple(erase(node, A, B, C) for node in (A, B, C, D))
    again = enough.state.handle(ActivatedCame(E, {}), T0)
    assert again == Step(enough.state)
    back = enough.state.handle(NodeDown(E), T0).state.handle(NodeUp(E), T0)
    assert back.do == (SendCommit(E),)


def test_member_that_holds_a_part_of_its_indices_only_is_lagging() -> None:
    seats = ((1, A), (2, B), (3, C), (4, A))
    begun = Settling(seats, 2, frozenset({A}), frozenset({A, B, C}), T0, receipts={2: b"2", 3: b"3"})
    step = begun.handle(ActivatedCame(A, {1: b"1"}), T0)
    assert step == Step(
        replace(begun, receipts={2: b"2", 3: b"3", 1: b"1"}, lagging=frozenset({A}), told=True), (TakenUp(),)
    )
    assert step.state.certificate == (b"1", b"2", b"3")


def test_member_that_has_its_share_after_all_is_not_lagging_and_erases() -> None:
    behind = replace(LATER, receipts=receipts(A, B, C, D), lagging=frozenset({E}), told=True)
    step = behind.handle(activated_came(E), T0)
    assert step == Step(replace(behind, receipts=RECEIPTS, lagging=frozenset()), (erase(E, *NODES),))


def test_node_that_left_the_committee_erases_and_is_not_lagging() -> None:
    three = replace(FIRST, owing=frozenset({F}), live=EVERYBODY | {F}, receipts=receipts(A, B, C))
    assert three.handle(ActivatedCame(F, {}), T0) == Step(three, (erase(F, A, B, C),))


# The end.


def test_it_is_settled_when_all_hold_the_epoch_and_nobody_anything_before_it_and_this_is_told_once() -> None:
    last = replace(LATER, owing=frozenset({E}), receipts=RECEIPTS, told=True)
    step = last.handle(ErasedCame(E), T0)
    over = replace(last, owing=frozenset(), settled=True)
    assert step == Step(over, (Settled(),))
    assert over.waits_for == ()
    for event in (ErasedCame(E), activated_came(E), NodeDown(E), TimePassed()):
        assert over.handle(event, T0).do == ()
    assert over.handle(NodeDown(E), T0).state == replace(over, live=EVERYBODY - {E})


def test_first_epoch_is_settled_with_the_last_receipt() -> None:
    four = replace(FIRST, receipts=receipts(A, B, C, D))
    step = four.handle(activated_came(E), T0)
    assert step == Step(replace(four, receipts=RECEIPTS, told=True, settled=True), (TakenUp(), Settled()))


def test_it_is_not_settled_while_a_member_has_no_share_although_all_have_erased() -> None:
    lacking = replace(FIRST, owing=frozenset({A}), receipts=receipts(A, B, C, D), told=True)
    step = lacking.handle(ErasedCame(A), T0)
    assert step == Step(replace(lacking, owing=frozenset()))
    assert step.state.waits_for == (E,)


def test_erasure_of_one_that_owes_nothing_changes_nothing() -> None:
    waiting = replace(LATER, owing=frozenset({E}), receipts=receipts(A, B, C))
    for node in (A, X):
        assert waiting.handle(ErasedCame(node), T0) == Step(waiting)


def test_who_is_waited_for() -> None:
    waiting = replace(FIRST, owing=frozenset({A, F}), receipts=receipts(A, B, C))
    assert waiting.waits_for == (A, D, E, F)
    too_few = replace(waiting, receipts=receipts(A, B))
    assert too_few.waits_for == (C, D, E), "nobody is asked to erase yet"


# The whole, with everything repeated that can be.


@pytest.mark.parametrize("repeats", [1, 3])
def test_from_commit_to_end_with_repeated_messages(repeats: int) -> None:
    step = Settling.begin(SEATS, 2, frozenset({*NODES, F}), EVERYBODY | {F}, T0)
    settling, done = step.state, list(step.do)
    events: list[Event] = [
        *(activated_came(node) for node in NODES),
        ActivatedCame(F, {}),
        *(ErasedCame(node) for node in (F, *NODES)),
    ]
    for event in events:
        for _ in range(repeats):
            step = settling.handle(event, T0)
            settling = step.state
            done += step.do
    told = [each for each in done if not isinstance(each, SendErase)]
    assert told == [*(SendCommit(node) for node in (*NODES, F)), TakenUp(), Settled()]
    assert {each.to for each in done if isinstance(each, SendErase)} == {*NODES, F}
    assert settling.settled
