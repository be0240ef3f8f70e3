"""Complaints in an attempt at an epoch: it is dead first, then somebody is convicted; one input, the whole step."""

from dataclasses import replace

import pytest
from tests.unit.protocol.test_epoch_change import (
    CHANGE,
    CHANGED,
    CHANGING,
    FOUR,
    IS_CHANGED,
    IS_DEALT,
    KEYS,
    NODES,
    PLAN,
    T0,
    A,
    B,
    C,
    D,
    E,
    X,
    aborted,
    keys_came,
    prepared_came,
    receipts,
    refused_came,
)

from quorate.ids import HUB, NodeId
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
    Verdict,
)
from quorate.protocol.epoch_change import (
    Attempt,
    Cancelled,
    Finished,
    NodeDown,
    NodeUp,
    Persist,
    Phase,
    SendAbort,
    SendPlan,
    Step,
    TimePassed,
)

CASE = Case(b"hash", b"complaint", b"dealing of 2", accuser=E, index=5, dealer=B)
OTHER = Case(b"other hash", b"another complaint", b"dealing of 3", accuser=D, index=4, dealer=C)
CAME = ComplaintCame(b"plan hash", CASE)
OPENED = OpeningCame(B, b"plan hash", b"hash", b"opening")
LIED = Verdict(E, "false_complaint", proven=True)
CHEATED = Verdict(B, "wrong_sub_share", proven=True)
SILENT = Verdict(B, "silent", proven=False)
DISPUTED = replace(IS_CHANGED, phase=Phase.DISPUTED, disputes=Disputes({b"hash": CASE}))
BOTH = replace(DISPUTED, disputes=Disputes({b"hash": CASE, b"other hash": OTHER}))


def judged(verdict: Verdict, case: Case = CASE) -> Judged:
    return Judged(case.hash, verdict, b"opening")


def over(reason: str, *culprits: str) -> tuple[SendAbort | Finished, ...]:
    finished = Finished(committed=False, code="disputed", reason=reason, culprits=culprits)
    return (*(SendAbort(node, reason) for node in NODES), finished)


def test_n95_complaint_aborts_durably_before_the_dealer_is_asked_to_open() -> None:
    enough = replace(IS_CHANGED, receipts=receipts(*FOUR))
    step = enough.handle(CAME, T0 + 1)
    disputed = replace(enough, phase=Phase.DISPUTED, since=T0 + 1, disputes=DISPUTED.disputes)
    reason = "e complains of what b dealt to it"
    assert step == Step(disputed, (Persist(Phase.ABORTED, reason=reason), SendDispute(B, b"complaint")))
    assert step.state.wake == T0 + 1 + DISPUTE_SECONDS
    assert step.state.waits_for == (B,)


@pytest.mark.parametrize(
    "event",
    [
        prepared_came(E),
        keys_came(E),
        refused_came(B),
        Cancelled("the operator"),
        TimePassed(),
        CAME,
        ComplaintCame(b"plan hash", replace(CASE, hash=b"again", complaint=b"in other words")),
    ],
)
def test_n95_disputed_attempt_commits_nothing_and_goes_on_to_its_verdict(event: object) -> None:
    waiting = replace(DISPUTED, receipts=receipts(*FOUR))
    assert waiting.handle(event, T0 + DISPUTE_SECONDS - 0.001) == Step(waiting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "foreign",
    [
        replace(CAME, plan_hash=b"another plan"),
        replace(CAME, case=replace(CASE, accuser=D)),
        replace(CAME, case=replace(CASE, index=9)),
        replace(CAME, case=replace(CASE, accuser=X)),
        replace(CAME, case=replace(CASE, dealer=E)),
    ],
    ids=["another plan", "another's index", "no index", "no member", "no dealer"],
)
def test_n95_complaint_of_nobody_concerned_changes_nothing(foreign: ComplaintCame) -> None:
    assert IS_CHANGED.handle(foreign, T0) == Step(IS_CHANGED)
    assert DISPUTED.handle(foreign, T0) == Step(DISPUTED)


def test_n95_complaint_of_an_index_that_was_dealt_nothing_changes_nothing() -> None:
    left_out = replace(CHANGED, sealed=tuple((*sealed[:4], b"") for sealed in CHANGED.sealed))
    without_e = replace(IS_CHANGED, dealt=left_out)
    assert without_e.handle(CAME, T0) == Step(without_e)


@pytest.mark.parametrize("phase", [Phase.PLANNED, Phase.COMMITTED, Phase.CLOSED, Phase.ABORTED])
def test_n95_complaint_before_the_dealings_or_after_the_end_changes_nothing(phase: Phase) -> None:
    attempt = replace(IS_CHANGED, phase=phase)
    assert attempt.handle(CAME, T0) == Step(attempt)


def test_opening_goes_to_the_hubs_module() -> None:
    assert DISPUTED.handle(OPENED, T0) == Step(DISPUTED, (Judge(CASE, b"opening"),))


@pytest.mark.parametrize(
    "foreign",
    [
        replace(OPENED, sender=C),
        replace(OPENED, sender=E),
        replace(OPENED, complaint=b"of no complaint"),
        replace(OPENED, plan_hash=b"another plan"),
    ],
)
def test_opening_by_another_or_of_no_complaint_is_not_judged(foreign: OpeningCame) -> None:
    assert DISPUTED.handle(foreign, T0) == Step(DISPUTED)
    assert IS_CHANGED.handle(OPENED, T0) == Step(IS_CHANGED)


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [(LIED, "e complained falsely of b"), (CHEATED, "b dealt a wrong sub-share to e")],
)
def test_n95_verdict_is_on_record_before_the_attempt_ends(verdict: Verdict, reason: str) -> None:
    step = DISPUTED.handle(judged(verdict), T0 + 1)
    ended = replace(
        DISPUTED, phase=Phase.ABORTED, disputes=replace(DISPUTED.disputes, verdicts={b"hash": verdict})
    )
    assert step == Step(ended, (Convict(CASE, verdict, b"opening"), *over(reason, verdict.convicted.value)))
    assert step.state.handle(judged(CHEATED), T0 + 1) == Step(ended)


def test_n95_silence_ends_the_dispute_and_proves_nothing() -> None:
    step = DISPUTED.handle(TimePassed(), T0 + DISPUTE_SECONDS)
    assert step.do == (Convict(CASE, SILENT), *over("b did not open what it dealt to e"))
    assert step.state.phase is Phase.ABORTED


def test_several_complaints_are_judged_together() -> None:
    step = DISPUTED.handle(ComplaintCame(b"plan hash", OTHER), T0 + 1)
    assert step == Step(BOTH, (SendDispute(C, b"another complaint"),))
    one = BOTH.handle(judged(LIED), T0 + 1)
    assert one.do == (Convict(CASE, LIED, b"opening"),)
    assert one.state.waits_for == (C,)
    assert one.state.handle(judged(CHEATED), T0 + 1) == Step(one.state)
    last = one.state.handle(judged(Verdict(D, "false_complaint", proven=True), OTHER), T0 + 1)
    assert last.do[1:] == over("e complained falsely of b; d complained falsely of c", "d", "e")


def test_dealer_that_is_back_is_asked_again() -> None:
    down = BOTH.handle(NodeDown(B), T0)
    assert down == Step(replace(BOTH, live=frozenset({A, C, D, E})))
    assert down.state.handle(NodeUp(B), T0) == Step(BOTH, (SendDispute(B, b"complaint"),))
    assert BOTH.handle(NodeUp(A), T0) == Step(BOTH)


def test_n95_creation_that_is_complained_of_is_aborted_and_convicts_nobody() -> None:
    """The hub's module keeps nothing of a first dealing, which would be the key."""
    came = ComplaintCame(b"plan hash", replace(CASE, dealing=b"dealing", dealer=HUB))
    reason = "e complains of what hub dealt to it; nobody can tell who of them is wrong"
    assert IS_DEALT.handle(came, T0) == aborted(IS_DEALT, "disputed", reason)


# Whoever is convicted.


def test_n95_convicted_member_is_left_out_and_blocks_nothing() -> None:
    step = Attempt.begin(CHANGE, frozenset(NODES), T0, frozenset({E, X}))
    planned = replace(CHANGING, live=frozenset(FOUR), barred=frozenset({E}))
    assert step == Step(planned, (Persist(Phase.PLANNED), *(SendPlan(node) for node in FOUR)))
    assert planned.handle(NodeUp(E), T0) == Step(planned)
    assert planned.handle(keys_came(E), T0) == Step(planned)
    attempt = planned
    for node in FOUR:
        attempt = attempt.handle(keys_came(node), T0).state
    assert attempt.dealing
    assert set(attempt.keys) == set(KEYS) - {5}


@pytest.mark.parametrize(("plan", "convicted"), [(CHANGE, B), (PLAN, E)], ids=["a dealer", "a creation"])
def test_attempt_that_needs_one_that_is_convicted_is_aborted(plan: object, convicted: NodeId) -> None:
    step = Attempt.begin(plan, frozenset(NODES), T0, frozenset({convicted}))  # type: ignore[arg-type]
    assert step.state.phase is Phase.ABORTED
