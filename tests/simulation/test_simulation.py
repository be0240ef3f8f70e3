"""Simulated schedules with the stand-in for curves, and that one seed is one trace. More, and the real core, are in
`test_cores`: two files, so that two processes share them.
"""

import pytest

from .command import TESTING, passes, traces

SCHEDULES = 560

pytestmark = pytest.mark.skipif(not TESTING, reason="needs a core with its `testing` feature")


def test_no_schedule_violates_an_invariant() -> None:
    passes(seed=1, schedules=SCHEDULES, core="fast")


def test_one_seed_is_one_trace() -> None:
    first, second = (traces("--seed", "7", "--schedules", "4") for _ in range(2))
    assert first == second
    assert len(set(first)) == 4
