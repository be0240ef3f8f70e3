"""Growth: which samples are compared, and what a soak holds against a fleet."""

import os

import pytest
from tally import Histogram
from verdict import Seen
from vitals import Growth, Incarnation, Sample, growth, lifetimes, read


def sample(at: float, rss: int, files: int = 30, threads: int = 4) -> Sample:
    return Sample(at, rss, rss, threads, files, rss, at)


def test_a_run_is_compared_from_the_first_window_after_the_warm_up_to_the_last() -> None:
    """Of twenty minutes: the seventh and the last."""
    rss = {0: 1, 359: 1, 361: 100, 390: 110, 419: 120, 421: 500, 1139: 500, 1141: 210, 1170: 220, 1199: 230}
    samples = [sample(1000.0 + at, kib) for at, kib in rss.items()]
    assert growth(samples, 1000.0, 1200.0, lambda one: one.rss) == Growth(110, 220)
    assert growth(samples, 1000.0, 1200.0, lambda one: one.rss, min) == Growth(100, 210)
    assert Growth(110, 220).percent == pytest.approx(100.0)


def test_what_was_not_measured_has_no_growth() -> None:
    assert growth([], 0.0, 1200.0, lambda one: one.rss) == Growth(None, None)
    assert growth([sample(390.0, 1)], 0.0, 1200.0, lambda one: one.rss).percent is None


def incarnation(name: str, born: float, lived: int, rss: int) -> Incarnation:
    """It gains a KiB with each second."""
    return Incarnation(name, 1, born, [sample(born + age, rss + age) for age in range(lived + 1)])


def test_incarnations_are_compared_at_equal_age_in_the_order_of_their_births() -> None:
    fleet = [
        incarnation("node-2", 300.0, 60, 2000),
        incarnation("node-3", 100.0, 60, 1000),
        incarnation("node-2", 200.0, 5, 9000),  # it did not become old enough
    ]
    assert lifetimes(fleet, age=20.0) == (Growth(1015, 2015), 2)
    assert lifetimes(fleet[:1], age=20.0) == (Growth(None, None), 1)


def test_proc_tells_of_this_process() -> None:
    found = read(os.getpid(), 5.0)
    assert found is not None
    assert found.at == 5.0
    assert 1000 < found.anonymous < found.rss
    assert found.threads >= 1
    assert found.files is not None


def test_a_process_that_ended_has_no_sample() -> None:
    assert read(2**22 + 1, 5.0) is None


def test_a_percentile_is_within_two_percent() -> None:
    histogram = Histogram()
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds / 1000)
    assert histogram.ms(0.5) == pytest.approx(500, rel=0.02)
    assert histogram.ms(0.99) == pytest.approx(990, rel=0.02)
    assert histogram.ms(1.0) == pytest.approx(1000)
    assert Histogram().ms(0.5) is None


def seen(**change: int) -> Seen:
    """A hub and a node of which something changes in the middle of a run of 1000 seconds."""
    found = Seen(1, "3 of 5", 8, 1000.0, "node-1")
    for name in ("hub", "node-1"):
        early = [sample(float(at), 100_000) for at in range(500)]
        late = [sample(float(at), **({"rss": 100_000} | change)) for at in range(500, 1001)]
        found.incarnations.append(Incarnation(name, 1, 0.0, early + late))
    found.tally.called("decrypt", 0.01, 0)
    return found


def failures(found: Seen, **audit: str | None) -> list[str]:
    logs = {name: {"lines": 1, "breach": breach} for name, breach in audit.items()}
    result = found.result(logs, {})
    assert result["passed"] == (not result["failures"])
    failures: list[str] = result["failures"]
    return failures


def test_a_run_without_fault_passes() -> None:
    assert failures(seen(rss=104_900), hub=None) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rss": 105_000}, "the memory of hub grew by 5.0 %"),
        ({"rss": 105_000}, "the memory of node-1 grew by 5.0 %"),
        ({"files": 33}, "hub has 33 open files, after 30"),
        ({"files": 39}, "node-1 has 39 open files, after 30"),
        ({"threads": 5}, "node-1 has 5 threads, after 4"),
    ],
)
def test_growth_is_a_failure(change: dict[str, int], told: str) -> None:
    assert told in failures(seen(**change))


def test_more_memory_in_later_incarnations_is_a_failure() -> None:
    found = seen()
    found.incarnations += [incarnation("node-2", 0.0, 60, 100_000)]  # the first one, which set the fleet up
    found.incarnations += [incarnation("node-2", born, 60, 100_000) for born in (100.0, 200.0)]
    assert failures(found) == []
    found.incarnations += [incarnation("node-2", born, 60, 110_000) for born in (300.0, 400.0)]
    assert failures(found) == ["nodes that were started later had 10.0 % more memory at equal age"]


def test_a_run_that_was_cut_short_does_not_pass() -> None:
    found = seen()
    for one in found.incarnations:
        del one.samples[600:]
    assert "the memory of hub was not measured: the run was too short, or was cut short" in failures(found)


def test_errors_wrong_results_and_broken_logs_are_failures() -> None:
    found = seen()
    found.tally.failed("decrypt", "KeyUnavailableException", [])
    found.tally.wronged("decrypt", "another plaintext")
    assert failures(found, hub="line 3: it does not follow the line before") == [
        "1 errors after the SDK's retries, 1 wrong results",
        "hub: line 3: it does not follow the line before",
    ]
