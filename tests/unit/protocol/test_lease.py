"""A lease's renewal: due at 80 % of its time or uses, with demand, once at a time."""

from dataclasses import replace

import pytest

from quorate.protocol.lease import PAUSE, LeaseWatch

FRESH = LeaseWatch(began=100.0, seconds=30.0, uses=10)


def test_use_before_80_percent_renews_nothing() -> None:
    assert FRESH.on_use(123.9) == (replace(FRESH, used=1), False)


def test_use_at_80_percent_of_time_renews() -> None:
    assert FRESH.on_use(124.0) == (replace(FRESH, used=1, renewing=True), True)


def test_use_that_reaches_80_percent_of_uses_renews() -> None:
    assert replace(FRESH, used=7).on_use(101.0) == (replace(FRESH, used=8, renewing=True), True)


@pytest.mark.parametrize(
    "watch",
    [FRESH, replace(FRESH, used=1, renewing=True), replace(FRESH, used=1, not_before=125.0)],
    ids=["no demand", "under way", "just failed"],
)
def test_time_alone_renews_nothing_without_cause(watch: LeaseWatch) -> None:
    assert watch.on_time(124.5) == (watch, False)


def test_time_renews_a_lease_that_was_used() -> None:
    used = replace(FRESH, used=1)
    assert used.on_time(124.0) == (replace(used, renewing=True), True)


@pytest.mark.parametrize(("watch", "now"), [(FRESH, 130.0), (replace(FRESH, used=10), 101.0)])
def test_lease_that_is_over_is_not_renewed(watch: LeaseWatch, now: float) -> None:
    assert watch.is_over(now)
    assert watch.on_time(now)[1] is False


def test_failed_renewal_is_tried_again_after_a_pause() -> None:
    under_way = replace(FRESH, used=1, renewing=True)
    failed = under_way.on_failure(124.5)
    assert failed == replace(FRESH, used=1, not_before=124.5 + PAUSE)
    assert failed.wake == 124.5 + PAUSE
    assert failed.on_time(124.5 + PAUSE) == (replace(failed, renewing=True), True)
