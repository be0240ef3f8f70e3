"""What people write for a domain's times, and what they read of its state."""

from typing import Any

import pytest
import typer

from quorate.cli.domain import _change, _earlier, seconds


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("30s", 30),
        ("15m", 900),
        ("12h", 43_200),
        ("7d", 604_800),
        ("0", 0),
        ("0s", 0),
        ("90", 90),
        ("007m", 420),
    ],
)
def test_time_is_a_number_with_a_unit(written: str, meant: int) -> None:
    assert seconds(written) == meant


@pytest.mark.parametrize(
    "written",
    ["", "h", "12x", "-5s", "+5s", "1.5h", "1h30m", "12 h", " 12h", "12H", "never", "1e3", "½h", "²s"],
)
def test_what_is_no_time_is_refused_by_the_name_of_its_option(written: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time") as caught:
        seconds(written)
    assert caught.value.param_hint == "--refresh-every"


def test_what_is_left_of_earlier_epochs_says_whether_it_could_open_the_key() -> None:
    domain: dict[str, Any] = {
        "earlier": [
            {"epoch": 3, "not_erased": 1, "retired": True},
            {"epoch": 4, "not_erased": 2, "retired": False},
        ]
    }
    assert _earlier(domain) == (
        "epoch 3: 1 shards not proven to be erased; "
        "epoch 4: 2 shards not proven to be erased, enough to open it"
    )
    assert _earlier({"earlier": []}) == _earlier({}) == ""


def test_change_that_is_under_way_says_whom_it_waits_for() -> None:
    change = {"epoch": 5, "purpose": "refresh", "phase": "dealt", "seconds": 1.26, "waits_for": ["b", "c"]}
    assert _change({"change": change}) == "refresh to epoch 5: dealt for 1.3 s, waits for b, c"
    assert _change({"change": {**change, "waits_for": []}}) == "refresh to epoch 5: dealt for 1.3 s"
    assert _change({"change": None}) == _change({}) == ""
