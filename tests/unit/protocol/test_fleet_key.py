"""Rotation of the fleet key as a machine: what is asked of whom, when a phase ends, what an absent node holds up."""

from dataclasses import replace

import pytest

from quorate.ids import NodeId
from quorate.protocol.fleet_key import (
    AGAIN_SECONDS,
    Give,
    Phase,
    Renew,
    Retire,
    RetireOwn,
    Rotation,
    Seen,
    Step,
)

A, B, C = (NodeId(name) for name in "abc")
ALL = frozenset({A, B, C})
NEW = Rotation(epoch=2, phase=Phase.DISTRIBUTING, ends=1000)
SEEN = Seen(active=ALL, live=ALL, left=3, held=True)
EARLY, LATE, NOW = 999.0, 1000.0, 50.0


def in_phase(
    phase: Phase, *, kept: frozenset[NodeId] = ALL, retired: frozenset[NodeId] = frozenset()
) -> Rotation:
    return replace(NEW, phase=phase, kept=kept, retired=retired)


def test_a_new_key_goes_to_every_live_node_and_again_to_one_that_is_silent() -> None:
    step = NEW.look(SEEN, EARLY, NOW)
    assert step == Step(replace(NEW, asked={A: NOW, B: NOW, C: NOW}), asks=(Give(A), Give(B), Give(C)))
    soon = step.state.on_kept(A, 2).look(SEEN, EARLY, NOW + AGAIN_SECONDS / 2)
    assert soon.asks == ()
    again = soon.state.look(SEEN, EARLY, NOW + AGAIN_SECONDS)
    assert again.asks == (Give(B), Give(C))


def test_nothing_is_renewed_before_every_live_node_has_the_key() -> None:
    two = in_phase(Phase.DISTRIBUTING, kept=frozenset({A, B}))
    assert two.look(SEEN, LATE, NOW).state.phase is Phase.DISTRIBUTING
    step = two.on_kept(C, 2).look(SEEN, EARLY, NOW)
    assert (step.state.phase, step.persist, step.asks) == (Phase.RENEWING, True, ())


def test_an_absent_node_holds_up_nothing_but_its_own_proof() -> None:
    away = replace(SEEN, live=frozenset({A, B}))
    two = frozenset({A, B})
    assert in_phase(Phase.DISTRIBUTING, kept=two).look(away, EARLY, NOW).state.phase is Phase.RENEWING
    assert (
        in_phase(Phase.RENEWING, kept=two).look(replace(away, left=0), EARLY, NOW).state.phase is Phase.WINDOW
    )
    retiring = in_phase(Phase.RETIRING, kept=two, retired=two)
    gone = replace(away, left=0, held=False)
    assert retiring.look(gone, LATE, NOW) == Step(retiring)
    assert retiring.waits_for(ALL) == {C}
    # It returns: first the key, then the order to erase the old one, then all is over.
    back = retiring.look(replace(gone, live=ALL), LATE, NOW)
    assert back.asks == (Give(C),)
    kept = back.state.on_kept(C, 2).look(replace(gone, live=ALL), LATE, NOW)
    assert kept.asks == (Retire(C),)
    done = kept.state.on_retired(C, 2).look(replace(gone, live=ALL), LATE, NOW)
    assert (done.state.phase, done.persist) == (Phase.DONE, True)
    assert done.state.look(SEEN, LATE, NOW) == Step(done.state)


def test_a_node_that_was_retired_from_the_fleet_is_not_waited_for() -> None:
    left = replace(SEEN, active=frozenset({A, B}), live=frozenset({A, B, C}), left=0, held=False)
    retiring = in_phase(Phase.RETIRING, retired=frozenset({A, B}))
    assert retiring.look(left, LATE, NOW).state.phase is Phase.DONE


def test_a_new_key_in_few_hands_is_not_used() -> None:
    alone = replace(SEEN, live=frozenset({A}))
    assert (
        in_phase(Phase.DISTRIBUTING, kept=frozenset()).look(replace(SEEN, live=frozenset()), LATE, NOW).asks
        == ()
    )
    for kept, phase in ((frozenset({A}), Phase.DISTRIBUTING), (frozenset({A, B}), Phase.RENEWING)):
        # The hub and one node are two of four modules: no majority.
        assert in_phase(Phase.DISTRIBUTING, kept=kept).look(alone, LATE, NOW).state.phase is phase


@pytest.mark.parametrize("phase", [Phase.RENEWING, Phase.WINDOW, Phase.RETIRING])
def test_what_is_left_is_renewed_in_every_phase_and_holds_each_up(phase: Phase) -> None:
    step = in_phase(phase).look(replace(SEEN, left=1), LATE, NOW)
    assert step.state.phase is phase
    assert step.asks == (Renew(),)


def test_n67_the_window_ends_by_time_and_then_the_hub_erases_its_old_key_first() -> None:
    none_left = replace(SEEN, left=0)
    window = in_phase(Phase.WINDOW)
    assert window.look(none_left, EARLY, NOW) == Step(window)
    step = window.look(none_left, LATE, NOW)
    assert (step.state.phase, step.persist) == (Phase.RETIRING, True)
    assert step.state.look(none_left, LATE, NOW).asks == (RetireOwn(),)
    after = step.state.look(replace(none_left, held=False), LATE, NOW)
    assert after.asks == (Retire(A), Retire(B), Retire(C))


def test_receipts_of_another_fleet_epoch_do_not_count() -> None:
    assert NEW.on_kept(A, 1) == NEW
    retiring = in_phase(Phase.RETIRING)
    assert retiring.on_retired(A, 1) == retiring
