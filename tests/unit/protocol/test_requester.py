"""The requester's side of sessions: one input, the whole step."""

from dataclasses import replace

import pytest

from quorate.ids import HUB, DomainId, NodeId, SessionId
from quorate.protocol import requester
from quorate.protocol.requester import (
    ATTEMPT,
    TOTAL,
    Abandon,
    Attempt,
    Ended,
    Open,
    Past,
    Receive,
    Requester,
    Send,
    Step,
    Unavailable,
)

DOMAIN = DomainId("payroll")
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
S1, S2 = SessionId(b"1" * 16), SessionId(b"2" * 16)
NOW = 50.0

IDLE = Requester(DOMAIN)
OPENING = Attempt(started=NOW, deadline=NOW + ATTEMPT, asked=NOW, waiters=(7,))
OPEN = replace(OPENING, session=S1)
CALLED = replace(OPEN, called=frozenset({(1, A), (2, B)}), holders=frozenset({A, B}))


def at(attempt: Attempt | None, **past: object) -> Requester:
    return replace(IDLE, attempt=attempt, **past)  # type: ignore[arg-type]


def closed(*whom: NodeId) -> tuple[Send, ...]:
    return tuple(Send(to, "session/closed", (b"closed",)) for to in whom)


def ended(*answered: list[int]) -> Send:
    return Send(HUB, "session/ended", (b"closed", list(answered)))


def test_first_need_opens_a_session() -> None:
    assert IDLE.handle(requester.Needed(7), NOW) == Step(at(OPENING), (Open(),))


def test_renewal_opens_a_session_that_nobody_waits_for() -> None:
    assert IDLE.handle(requester.Needed(None), NOW) == Step(at(replace(OPENING, waiters=())), (Open(),))


def test_concurrent_needs_share_the_session() -> None:
    step = at(OPEN).handle(requester.Needed(8), NOW + 0.5)
    assert step == Step(at(replace(OPEN, waiters=(7, 8))))


def test_opened_session_is_requested_from_the_hub() -> None:
    step = at(OPENING).handle(requester.Opened(S1, b"request"), NOW + 0.1)
    assert step == Step(at(replace(OPEN, asked=NOW + 0.1)), (Send(HUB, "session/request", (b"request",)),))


def test_module_that_opens_nothing_fails_its_waiters() -> None:
    step = at(OPENING).handle(requester.OpeningFailed("rate_limited", "many"), NOW)
    assert step == Step(IDLE, (Ended(None, (7,), Unavailable("rate_limited", "many")),))


def test_grant_tells_who_takes_part() -> None:
    assert at(OPEN).handle(requester.Granted(S1, ((1, A), (2, B))), NOW) == Step(at(CALLED))


def test_answer_goes_to_the_module_and_its_sender_gets_the_last_word() -> None:
    step = at(OPEN).handle(requester.AnswerCame(S1, C, 3, b"answer"), NOW + 0.0015)
    heard = replace(OPEN, holders=frozenset({C}), answered=((3, 1500),))
    assert step == Step(at(heard), (Receive(S1, b"answer"),))


def test_answer_that_does_not_complete_is_counted() -> None:
    step = at(CALLED).handle(requester.Received(S1, 1, 2), NOW)
    assert step == Step(at(replace(CALLED, have=1, need=2)))


def test_last_answer_serves_the_waiters_and_tells_everybody() -> None:
    heard = replace(CALLED, answered=((1, 900), (2, 1500)))
    step = at(heard).handle(requester.Received(S1, 2, 2, closed=b"closed"), NOW)
    over = replace(IDLE, past={S1: Past(frozenset({A, B}), b"closed", heard.answered)})
    assert step == Step(over, (ended([1, 900], [2, 1500]), *closed(A, B), Ended(S1, (7,), None)))


def test_culprit_is_reported_once_and_the_session_goes_on() -> None:
    got = requester.Received(S1, 1, 2, culprits=((2, B),))
    blamed = replace(CALLED, have=1, need=2, culprits=((2, B),))
    asked = Send(HUB, "session/culprits", (S1.value, [[2, "b"]]))
    assert at(CALLED).handle(got, NOW) == Step(at(blamed), (asked,))
    assert at(blamed).handle(got, NOW) == Step(at(blamed))


def test_sender_of_an_answer_that_cannot_be_opened_is_replaced() -> None:
    rejected = requester.AnswerRejected(S1, "not_opened", (B,))
    step = at(CALLED).handle(rejected, NOW)
    blamed = replace(CALLED, culprits=((2, B),))
    assert step == Step(at(blamed), (Send(HUB, "session/culprits", (S1.value, [[2, "b"]])),))


def test_refusal_of_the_hub_ends_the_session() -> None:
    step = at(CALLED).handle(requester.Refused(S1, "no_quorum", "1 of 2"), NOW)
    over = replace(IDLE, past={S1: Past(frozenset({A, B}))})
    failure = Unavailable("no_quorum", "1 of 2")
    assert step == Step(over, (Abandon(S1, "refused"), Ended(S1, (7,), failure)))


STALE = requester.Refused(S1, "wrong_epoch", "epoch 2 is current")
WAITING = replace(OPENING, stale=True)
"""Its session was refused as one of an epoch that is over."""


def test_session_of_an_epoch_that_is_over_waits_for_the_next_epoch() -> None:
    step = at(replace(CALLED, culprits=((2, B),))).handle(STALE, NOW + 0.9)
    past = {S1: Past(frozenset({A, B}))}
    waiting = replace(WAITING, culprits=((2, B),))
    assert step == Step(at(waiting, past=past), (Abandon(S1, "refused"),))
    assert step.state.wake == NOW + ATTEMPT


def test_next_epoch_opens_the_session_that_waits_for_it() -> None:
    step = at(WAITING).handle(requester.EpochChanged(), NOW + 0.9)
    again = replace(OPENING, asked=NOW + 0.9, deadline=NOW + TOTAL)
    assert step == Step(at(again), (Open(),))
    early = at(WAITING).handle(requester.EpochChanged(), NOW + 0.1)
    assert early.state.attempt == replace(again, asked=NOW + 0.1, deadline=NOW + 0.1 + ATTEMPT)


def test_next_epoch_begins_a_session_in_the_old_one_again() -> None:
    step = at(replace(CALLED, have=1, need=2)).handle(requester.EpochChanged(), NOW + 0.2)
    again = replace(OPENING, asked=NOW + 0.2, deadline=NOW + 0.2 + ATTEMPT)
    past = {S1: Past(frozenset({A, B}))}
    assert step == Step(at(again, past=past), (Abandon(S1, "refused"), Open()))


def test_n48_late_answer_of_the_old_epoch_is_not_taken_in_the_new_one() -> None:
    over = at(OPEN).handle(requester.EpochChanged(), NOW).state
    for late in (requester.AnswerCame(S1, C, 3, b"answer"), requester.Received(S1, 2, 2, closed=b"c"), STALE):
        assert over.handle(late, NOW) == Step(over)


@pytest.mark.parametrize("state", [IDLE, at(OPENING)], ids=["idle", "opening"])
def test_next_epoch_is_nothing_to_one_that_has_no_session_in_the_old(state: Requester) -> None:
    assert state.handle(requester.EpochChanged(), NOW) == Step(state)


def test_need_shares_the_session_that_waits_for_the_next_epoch() -> None:
    step = at(WAITING).handle(requester.Needed(8), NOW + 0.5)
    assert step == Step(at(replace(WAITING, waiters=(7, 8))))


def test_epoch_that_does_not_come_fails_its_waiters_at_the_deadline() -> None:
    assert at(WAITING).handle(requester.TimePassed(), NOW + ATTEMPT - 0.01) == Step(at(WAITING))
    step = at(WAITING).handle(requester.TimePassed(), NOW + ATTEMPT)
    failure = Unavailable("wrong_epoch", "another epoch of payroll is current, and did not come here")
    assert step == Step(IDLE, (Ended(None, (7,), failure),))


def test_epochs_that_follow_each_other_do_not_move_the_end() -> None:
    state, now = at(OPEN), NOW
    for number in range(3, 9):
        now += 0.2
        session = SessionId(b"%d" % number * 16)
        state = state.handle(requester.EpochChanged(), now).state
        assert state.attempt is not None
        assert state.attempt.deadline == min(now + ATTEMPT, NOW + TOTAL)
        state = state.handle(requester.Opened(session, b"request"), now).state
    failed = state.handle(requester.TimePassed(), NOW + TOTAL).do[-1]
    assert isinstance(failed, Ended)
    assert failed.waiters == (7,)


def test_lost_hub_fails_at_once() -> None:
    step = at(OPEN).handle(requester.HubLost(), NOW)
    failure = Unavailable("hub_down", "the hub cannot be reached")
    over = replace(IDLE, past={S1: Past(frozenset())})
    assert step == Step(over, (Abandon(S1, "refused"), Ended(S1, (7,), failure)))


def test_deadline_ends_the_session_and_says_how_far_it_came() -> None:
    late = replace(CALLED, have=1, need=2)
    step = at(late).handle(requester.TimePassed(), NOW + ATTEMPT)
    over = replace(IDLE, past={S1: Past(frozenset({A, B}))})
    failure = Unavailable("expired", "1 of 2 shards of payroll arrived before the deadline")
    assert step == Step(over, (Abandon(S1, "expired"), Ended(S1, (7,), failure)))


def test_timer_before_the_deadline_does_nothing() -> None:
    assert at(OPEN).handle(requester.TimePassed(), NOW + 0.99) == Step(at(OPEN))


@pytest.mark.parametrize(
    "event",
    [
        requester.AnswerCame(S2, A, 1, b"answer"),
        requester.Received(S2, 2, 2, closed=b"closed"),
        requester.Refused(S2, "no_quorum", ""),
        requester.Granted(S2, ((1, A),)),
    ],
)
@pytest.mark.parametrize("state", [IDLE, at(OPEN)], ids=["idle", "open"])
def test_n55_event_of_another_session_changes_nothing(state: Requester, event: requester.Event) -> None:
    assert state.handle(event, NOW) == Step(state)


def test_last_word_on_an_abandoned_session_goes_to_hub_and_holders() -> None:
    over = replace(IDLE, past={S1: Past(frozenset({A}), answered=((1, 900),))})
    step = over.handle(requester.Abandoned(S1, b"closed"), NOW)
    past = {S1: Past(frozenset({A}), b"closed", ((1, 900),))}
    assert step == Step(replace(IDLE, past=past), (ended([1, 900]), *closed(A)))


def test_holder_called_too_late_gets_the_last_word() -> None:
    over = replace(IDLE, past={S1: Past(frozenset({A}), b"closed")})
    step = over.handle(requester.Granted(S1, ((1, A), (3, C))), NOW)
    assert step == Step(replace(IDLE, past={S1: Past(frozenset({A, C}), b"closed")}), closed(C))


def test_wake_is_the_deadline_of_what_is_under_way() -> None:
    assert IDLE.wake is None
    assert at(OPEN).wake == NOW + ATTEMPT
