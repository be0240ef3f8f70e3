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


def test_stale_epoch_starts_once_again_and_not_twice() -> None:
    stale = requester.Refused(S1, "wrong_epoch", "epoch 2 is current")
    step = at(OPEN).handle(stale, NOW + 0.9)
    again = replace(OPENING, deadline=NOW + TOTAL, asked=NOW + 0.9, restarted=True)
    past = {S1: Past(frozenset())}
    assert step == Step(at(again, past=past), (Abandon(S1, "refused"), Open()))

    second = at(replace(again, session=S2)).handle(replace(stale, session=S2), NOW + 1.0)
    failure = Unavailable("wrong_epoch", "epoch 2 is current")
    assert second.do == (Abandon(S2, "refused"), Ended(S2, (7,), failure))


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
