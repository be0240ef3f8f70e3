"""Greetings among hosts whose modules have different fleet keys: who is told what, and how often at most."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from quorate import _core
from quorate.host import fleet as host
from quorate.host.dispatch import Dispatch
from quorate.host.fleet import Fleet
from quorate.ids import HUB, NodeId

A = NodeId("a")


class Module:
    """Opens nothing, for the reason `code`; has two fleet keys."""

    def __init__(self, name: str, code: str) -> None:
        self.name = name
        self.generation = 0
        self._code = code

    def open_message(self, _message: bytes) -> Any:
        why = _core.CoreError("not opened")
        why.code, why.message = self._code, "not opened"
        raise why

    def hellos(self, to: str) -> list[bytes]:
        return [f"hello {to} under {epoch}".encode() for epoch in (2, 1)]

    def rekey_for(self, node: str) -> bytes:
        return f"rekey {node}".encode()


class Links:
    def __init__(self, _own: NodeId, _tls: Any, **_: Any) -> None:
        self.posted: list[bytes] = []

    def post(self, _to: NodeId, message: bytes) -> None:
        self.posted.append(message)


@pytest.fixture
def with_fleet(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs with a host's fleet that is linked to `a`, and what it has posted since."""
    monkeypatch.setattr(host, "Links", Links)

    def run(name: NodeId, code: str, work: Callable[[Fleet, list[bytes]], None]) -> None:
        async def main() -> None:
            hsm: Any = type("Hsm", (), {"module": Module(name.value, code)})()
            tls: Any = None
            fleet = Fleet(
                hsm,
                tls,
                Dispatch(),
                on_greeted=lambda _: None,
                on_lost=lambda _: None,
                on_behind=lambda _, _why: None,
                on_rolled_back=lambda _: None,
            )
            posted = fleet._links.posted  # type: ignore[attr-defined]
            fleet._on_up(A)
            assert posted == [b"hello a under 2", b"hello a under 1"]
            posted.clear()
            work(fleet, posted)

        asyncio.run(main())

    return run


@pytest.mark.parametrize("code", ["no_fleet_key", "old_fleet_key"])
def test_the_hub_sends_its_key_to_who_uses_another_one_a_few_times(with_fleet: Any, code: str) -> None:
    def work(fleet: Fleet, posted: list[bytes]) -> None:
        for _ in range(3 * host._REPLIES):
            fleet._on_message(A, b"under an older key")
        assert posted == [b"rekey a"] * host._REPLIES

    with_fleet(HUB, code, work)


def test_the_hub_sends_its_key_to_who_is_connected_and_says_nothing(with_fleet: Any) -> None:
    def work(fleet: Fleet, posted: list[bytes]) -> None:
        for _ in range(4):
            fleet.tick()
        assert posted == [b"hello a under 2", b"hello a under 1", b"rekey a"]

    with_fleet(HUB, "no_fleet_key", work)


def test_nobody_else_sends_keys_and_for_no_other_reason(with_fleet: Any) -> None:
    def work(fleet: Fleet, posted: list[bytes]) -> None:
        fleet._on_message(A, b"a message")
        assert posted == []

    with_fleet(NodeId("b"), "old_fleet_key", work)
    with_fleet(HUB, "bad_signature", work)
