"""`quorate fleet rotate-key`, and what `quorate status` says of a rotation: the hub's words, as people read them."""

import json
from pathlib import Path
from typing import Any

import pytest

import quorate.client
from quorate.cli import fleet, fleet_key

BEGUN = {
    "epoch": 2,
    "phase": "distributing",
    "window_ends": 1_800_000_000,
    "waits_for": ["a", "b"],
    "away": ["b"],
    "keys": 3,
    "renewed": 0,
    "access_left": 1,
    "uncommitted": [],
}


class Hub:
    """Answers with what stands in `then`, one for each question."""

    windows: list[int]
    then: list[dict[str, Any]]

    def __init__(self, _socket: Path) -> None:
        pass

    async def rotate_key(self, *, window: int) -> dict[str, Any]:
        self.windows.append(window)
        return BEGUN

    async def status(self) -> dict[str, Any]:
        return {"fleet": {"fleet_key": BEGUN | self.then.pop(0)}}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(quorate.client, "AdminClient", Hub)
    monkeypatch.setattr(fleet_key, "_LOOK_SECONDS", 0.0)
    Hub.windows, Hub.then = [], []
    return Hub


def test_it_waits_until_the_old_key_is_erased_everywhere(
    quorate: Any, hub: type[Hub], tmp_path: Path
) -> None:
    hub.then = [{}, {"phase": "renewing"}, {"phase": "window"}, {"phase": "retiring"}]
    hub.then.append({"phase": "done", "waits_for": [], "away": [], "renewed": 3})
    got = quorate("fleet", "rotate-key", "--window", "10m", "--json", "--data", str(tmp_path))
    assert (got.code, json.loads(got.out)["phase"], hub.windows) == (0, "done", [600])
    assert [line.split(": ")[1] for line in got.err.splitlines()] == [
        "distributing", "renewing", "window", "retiring", "done",
    ]  # fmt: skip


def test_it_does_not_wait_for_nodes_that_are_down(quorate: Any, hub: type[Hub], tmp_path: Path) -> None:
    hub.then = [{"phase": "retiring"}, {"phase": "retiring", "waits_for": ["b"]}]
    got = quorate("fleet", "rotate-key", "--data", str(tmp_path))
    assert (got.code, hub.windows, hub.then) == (0, [3600], [])
    assert "still to come: b" in got.out


def test_no_wait_and_access_keys_that_new_nodes_refuse(
    quorate: Any, hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BEGUN, "uncommitted", ["QKIAOLD"])
    got = quorate("fleet", "rotate-key", "--no-wait", "--data", str(tmp_path))
    assert (got.code, hub.then) == (0, [])
    assert "QKIAOLD" in got.err
    assert "access create" in got.err


def test_a_window_that_is_no_time_is_a_usage_error(quorate: Any, hub: type[Hub], tmp_path: Path) -> None:
    got = quorate("fleet", "rotate-key", "--window", "soon", "--data", str(tmp_path))
    assert (got.code, hub.windows) == (2, [])


def test_status_tells_of_a_rotation_while_there_is_one() -> None:
    (line,) = fleet._fleet_key(BEGUN)
    assert line == (
        "fleet key: epoch 2, distributing, 0 of 3 keys renewed, the old one until 2027-01-15T08:00:00+00:00, "
        "waits for a, b"
    )
    assert fleet._fleet_key(BEGUN | {"phase": "done"}) == []
    assert fleet._fleet_key(None) == []
