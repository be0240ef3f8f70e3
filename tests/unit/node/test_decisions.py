"""What the node decides by itself: whom to forward to, which records are next, what is dropped and why."""

import asyncio
from collections.abc import Awaitable

import pytest

from quorate import _core
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.ids import HUB, NodeId
from quorate.node.forward import candidates
from quorate.node.records import Turn, turn

A, B, C, D = (NodeId(name) for name in "abcd")


def test_only_live_members_other_than_this_node_are_asked() -> None:
    assert candidates(A, {A, B, C}, frozenset({A, B, D, HUB})) == [B]


def test_nobody_is_asked_when_no_member_is_live() -> None:
    assert candidates(A, {A, B}, frozenset({C, HUB}), start=5) == []


def test_each_member_is_asked_once_and_another_one_first_each_time() -> None:
    live = frozenset({B, C, D})
    asked = [candidates(A, {B, C, D}, live, start) for start in range(4)]
    assert asked == [[B, C, D], [C, D, B], [D, B, C], [B, C, D]]


@pytest.mark.parametrize(
    ("have", "first", "last", "expected"),
    [
        (0, 1, 1, Turn.NEXT),
        (0, 2, 3, Turn.GAP),
        (4, 5, 9, Turn.NEXT),
        (4, 3, 9, Turn.NEXT),  # overlaps what is known
        (4, 6, 9, Turn.GAP),
        (4, 1, 4, Turn.KNOWN),
        (4, 4, 4, Turn.KNOWN),
    ],
)
def test_records_are_learnt_in_order(have: int, first: int, last: int, expected: Turn) -> None:
    assert turn(have, first, last) is expected


def dispatch_of(handler_error: Exception | None = None) -> tuple[Dispatch, list[tuple[NodeId, Fields]]]:
    got: list[tuple[NodeId, Fields]] = []

    def handle(sender: NodeId, fields: Fields) -> Awaitable[None] | None:
        got.append((sender, fields))
        if handler_error is not None:
            raise handler_error
        return None

    async def later(sender: NodeId, fields: Fields) -> None:
        handle(sender, fields)

    dispatch = Dispatch()
    dispatch.on("hub/only", 2, handle)
    dispatch.on("any/sender", 1, handle, hub_only=False)
    dispatch.on("any/later", 1, later, hub_only=False)
    dispatch.on("any/queued", 1, later, hub_only=False, queued=True)
    return dispatch, got


def test_message_reaches_its_handler() -> None:
    async def main() -> None:
        dispatch, got = dispatch_of()
        assert dispatch.take(HUB, "hub/only", _core.encode([1, b"x"])) is None
        assert got == [(HUB, [1, b"x"])]
        assert not dispatch.drops

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sender", "kind", "body", "reason"),
    [
        (A, "hub/only", _core.encode([1, 2]), "not_from_hub"),
        (HUB, "hub/other", _core.encode([]), "unknown_kind"),
        (HUB, "hub/only", _core.encode([1]), "bad_encoding"),
        (HUB, "hub/only", _core.encode(7), "bad_encoding"),
        (HUB, "hub/only", b"\xff", "bad_encoding"),
    ],
)
def test_message_is_dropped_with_a_counted_reason(
    sender: NodeId, kind: str, body: bytes, reason: str
) -> None:
    async def main() -> None:
        dispatch, got = dispatch_of()
        assert dispatch.take(sender, kind, body) is None
        assert dispatch.drops == {reason: 1}
        assert got == []

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["any/sender", "any/later"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Dropped("no_session"), "no_session"),
        (ValueError("a session id is 16 bytes"), "bad_encoding"),
        (KeyError("index"), "bad_encoding"),
        (RuntimeError("broken"), "failed"),
    ],
)
def test_failure_of_a_handler_is_a_counted_reason(kind: str, error: Exception, reason: str) -> None:
    async def main() -> None:
        dispatch, _ = dispatch_of(error)
        waiting = dispatch.take(A, kind, _core.encode([1]))
        if waiting is not None:
            await waiting
        assert dispatch.drops == {reason: 1}

    asyncio.run(main())


def test_queued_messages_are_handled_in_order_after_one_that_failed() -> None:
    async def main() -> None:
        dispatch, got = dispatch_of(Dropped("no_use"))
        done = asyncio.Event()
        dispatch.on("any/last", 0, lambda _sender, _fields: done.set(), hub_only=False, queued=True)
        for number in range(3):
            assert dispatch.take(A, "any/queued", _core.encode([number])) is None
        assert dispatch.take(A, "any/last", _core.encode([])) is None
        assert got == []
        running = asyncio.get_running_loop().create_task(dispatch.run_queue())
        async with asyncio.timeout(10):
            await done.wait()
        running.cancel()
        assert got == [(A, [0]), (A, [1]), (A, [2])]
        assert dispatch.drops == {"no_use": 3}

    asyncio.run(main())
