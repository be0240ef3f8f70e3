"""A rotation at the hub: one input, the whole step."""

from dataclasses import replace
from typing import Any

import pytest

from quorate.ids import NodeId
from quorate.protocol.key_rotation import (
    AGAIN_SECONDS,
    BATCH,
    BATCH_SECONDS,
    CleanCame,
    Facts,
    Persist,
    Phase,
    RefusedCame,
    Rewrapped,
    Rotation,
    SendCheck,
    SendDrop,
    SendRewrap,
    Step,
    TimePassed,
)

A, B, C, X = (NodeId(name) for name in "abcx")
NODES = frozenset({A, B, C})
KEYS = (b"k1", b"k2")
T0 = 100.0
CLEANS = {A: b"clean a", B: b"clean b", C: b"clean c"}
CERTIFICATE = (b"clean a", b"clean b", b"clean c")

SOME = Facts(KEYS, NODES, NODES, NODES)
NONE = replace(SOME, keys=())


def at(phase: Phase, facts: Facts = SOME, **more: Any) -> Rotation:
    return Rotation(phase, facts, **more)


# Wrapping anew.


def test_keys_that_are_left_go_to_one_member() -> None:
    step = at(Phase.REWRAPPING).handle(TimePassed(), SOME, T0)
    working = at(Phase.REWRAPPING, worker=(A, T0))
    assert step == Step(working, (SendRewrap(A, KEYS),))
    assert working.handle(TimePassed(), SOME, T0 + 1) == Step(working)
    assert working.waits_for == (A,)


def test_no_batch_is_larger_than_a_batch() -> None:
    wrong = {b"w%d" % number: frozenset({B}) for number in range(BATCH)}
    step = at(Phase.REWRAPPING, wrong=wrong).handle(TimePassed(), SOME, T0)
    (send,) = step.do
    assert isinstance(send, SendRewrap)
    assert send.keys[:2] == KEYS
    assert len(send.keys) == BATCH


def test_member_that_is_done_gets_the_next_batch() -> None:
    left = replace(SOME, keys=(b"k3",))
    step = at(Phase.REWRAPPING, worker=(A, T0)).handle(Rewrapped(A, KEYS, "ok"), left, T0 + 1)
    assert step == Step(at(Phase.REWRAPPING, left, worker=(A, T0 + 1)), (SendRewrap(A, (b"k3",)),))


@pytest.mark.parametrize(
    ("event", "facts", "later"),
    [
        (Rewrapped(A, (), "no_lease"), SOME, 1.0),
        (TimePassed(), replace(SOME, live=frozenset({B, C})), 1.0),
        (TimePassed(), replace(SOME, members=frozenset({B, C})), 1.0),
        (TimePassed(), SOME, BATCH_SECONDS),
    ],
    ids=["it failed", "it is away", "it is no member any more", "it is too slow"],
)
def test_another_member_takes_over(event: Any, facts: Facts, later: float) -> None:
    now = T0 + later
    step = at(Phase.REWRAPPING, worker=(A, T0)).handle(event, facts, now)
    assert step == Step(at(Phase.REWRAPPING, facts, worker=(B, now), tired={A: now}), (SendRewrap(B, KEYS),))


def test_a_word_of_one_that_was_replaced_changes_nothing() -> None:
    working = at(Phase.REWRAPPING, worker=(B, T0))
    assert working.handle(Rewrapped(A, KEYS, "no_lease"), SOME, T0) == Step(working)


def test_when_all_have_failed_the_first_is_asked_again_later() -> None:
    tired = dict.fromkeys(NODES, T0)
    waiting = at(Phase.REWRAPPING, tired=tired)
    assert waiting.handle(TimePassed(), SOME, T0 + AGAIN_SECONDS - 0.1) == Step(waiting)
    step = waiting.handle(TimePassed(), SOME, T0 + AGAIN_SECONDS)
    assert step.do == (SendRewrap(A, KEYS),)


# Comparing.


def test_when_no_key_is_left_every_member_is_asked_to_check() -> None:
    facts = replace(NONE, live=frozenset({A, B}))
    step = at(Phase.REWRAPPING, worker=(A, T0)).handle(Rewrapped(A, KEYS, "ok"), facts, T0)
    checking = at(Phase.CHECKING, facts, asked={A: T0, B: T0})
    assert step == Step(checking, (Persist(Phase.CHECKING), SendCheck(A), SendCheck(B)))
    assert checking.waits_for == (A, B, C)
    # One that comes back is asked; one that is silent is asked again.
    assert checking.handle(TimePassed(), NONE, T0 + 1).do == (SendCheck(C),)
    again = checking.handle(TimePassed(), facts, T0 + AGAIN_SECONDS)
    assert again.do == (SendCheck(A), SendCheck(B))


def test_a_key_that_is_left_after_all_is_wrapped_anew_and_nothing_said_before_counts() -> None:
    checking = at(Phase.CHECKING, NONE, cleans={A: b"clean a"}, asked=dict.fromkeys(NODES, T0))
    step = checking.handle(CleanCame(B, b"clean b"), SOME, T0)
    assert step == Step(
        at(Phase.REWRAPPING, SOME, worker=(A, T0)), (Persist(Phase.REWRAPPING), SendRewrap(A, KEYS))
    )


def test_a_key_with_a_wrong_token_is_wrapped_anew_by_another_member_than_the_culprit() -> None:
    checking = at(Phase.CHECKING, NONE, cleans={B: b"clean b"}, asked=dict.fromkeys(NODES, T0))
    step = checking.handle(RefusedCame(C, (b"k1",), frozenset({A})), NONE, T0)
    wrong = {b"k1": frozenset({A})}
    working = at(Phase.REWRAPPING, NONE, worker=(B, T0), wrong=wrong)
    assert step == Step(working, (Persist(Phase.REWRAPPING), SendRewrap(B, (b"k1",))))
    done = working.handle(Rewrapped(B, (b"k1",), "ok"), NONE, T0)
    assert done.state.wrong == {}
    assert done.do == (Persist(Phase.CHECKING), SendCheck(A), SendCheck(B), SendCheck(C))


def test_one_that_needs_the_old_version_for_another_reason_is_asked_again() -> None:
    checking = at(Phase.CHECKING, NONE, asked=dict.fromkeys(NODES, T0))
    assert checking.handle(RefusedCame(A), NONE, T0) == Step(checking)
    assert checking.handle(TimePassed(), NONE, T0 + AGAIN_SECONDS).do == tuple(map(SendCheck, (A, B, C)))


def test_who_is_no_member_says_nothing() -> None:
    checking = at(Phase.CHECKING, NONE, asked=dict.fromkeys(NODES, T0))
    assert checking.handle(CleanCame(X, b"clean x"), NONE, T0) == Step(checking)
    assert checking.handle(RefusedCame(X, (b"k1",)), NONE, T0) == Step(checking)


# Dropping.


def test_nothing_is_dropped_before_every_member_has_said_that_it_is_clean() -> None:
    checking = at(Phase.CHECKING, NONE, asked=dict.fromkeys(NODES, T0), cleans={A: b"clean a"})
    step = checking.handle(CleanCame(B, b"clean b"), NONE, T0)
    assert step == Step(replace(checking, cleans={A: b"clean a", B: b"clean b"}))
    owing = replace(NONE, owing=NODES | {X}, live=NODES | {X})
    step = step.state.handle(CleanCame(C, b"clean c"), owing, T0)
    dropping = at(Phase.DROPPING, owing, cleans=CLEANS, asked=dict.fromkeys((A, B, C, X), T0))
    sends = tuple(SendDrop(node, CERTIFICATE) for node in (A, B, C, X))
    assert step == Step(dropping, (Persist(Phase.DROPPING), *sends))


def test_it_is_done_when_nobody_has_shares_of_the_old_version_any_more() -> None:
    dropping = at(Phase.DROPPING, NONE, cleans=CLEANS, asked=dict.fromkeys(NODES, T0))
    left = replace(NONE, owing=frozenset({C}))
    assert dropping.handle(TimePassed(), left, T0).state.waits_for == (C,)
    assert dropping.handle(TimePassed(), left, T0 + AGAIN_SECONDS).do == (SendDrop(C, CERTIFICATE),)
    step = dropping.handle(TimePassed(), replace(NONE, owing=frozenset()), T0)
    assert (step.state.phase, step.do) == (Phase.DONE, (Persist(Phase.DONE),))


def test_a_wrong_token_while_dropping_is_mended_and_the_phase_stays() -> None:
    """Some have dropped the old version: keys go on being refused under it."""
    dropping = at(Phase.DROPPING, NONE, cleans=CLEANS, asked=dict.fromkeys(NODES, T0))
    step = dropping.handle(RefusedCame(C, (b"k1",), frozenset({A})), NONE, T0)
    assert (step.state.phase, step.do) == (Phase.DROPPING, (SendRewrap(B, (b"k1",)),))


def test_a_new_member_is_to_say_its_word_too() -> None:
    joined = replace(NONE, members=NODES | {X}, live=NODES | {X})
    dropping = at(Phase.DROPPING, NONE, cleans=CLEANS, asked=dict.fromkeys(NODES, T0))
    step = dropping.handle(TimePassed(), joined, T0)
    assert step.do == (SendCheck(X),)
    assert step.state.waits_for == (A, B, C, X)


# After a restart of the hub.


@pytest.mark.parametrize(
    ("phase", "facts", "do"),
    [
        (Phase.REWRAPPING, SOME, (SendRewrap(A, KEYS),)),
        (Phase.CHECKING, NONE, (SendCheck(A), SendCheck(B), SendCheck(C))),
        (Phase.DROPPING, NONE, (SendCheck(A), SendCheck(B), SendCheck(C))),
        (Phase.DROPPING, replace(NONE, owing=frozenset({C})), (SendCheck(A), SendCheck(B), SendCheck(C))),
    ],
)
def test_the_phase_alone_is_enough_to_go_on(phase: Phase, facts: Facts, do: tuple[Any, ...]) -> None:
    assert (
        Rotation(phase, Facts((), frozenset(), frozenset(), frozenset())).handle(TimePassed(), facts, T0).do
        == do
    )


@pytest.mark.parametrize("phase", list(Phase))
def test_nothing_happens_before_the_new_version_is_known(phase: Phase) -> None:
    """The database is not read yet: without members there would be nobody to wait for."""
    resumed = at(phase)
    assert resumed.handle(TimePassed(), Facts((), frozenset(), frozenset(), NODES), T0) == Step(resumed)


@pytest.mark.parametrize("phase", [Phase.SHARING, Phase.DONE, Phase.ABANDONED])
def test_what_has_not_begun_or_is_over_hears_nothing(phase: Phase) -> None:
    assert at(phase).handle(TimePassed(), SOME, T0) == Step(at(phase))
