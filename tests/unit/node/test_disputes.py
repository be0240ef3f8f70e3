"""A member's part in a dispute with a real module: it complains, and opens what it dealt."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.hub.conftest import with_parts
from tests.unit.hub.test_disputes import PAYROLL, WithLiar, with_liar
from tests.unit.node.test_epochs import Node

from quorate import _core
from quorate.ids import HUB, Quorum
from quorate.protocol import member

Work = Callable[[Any, WithLiar], Awaitable[None]]


@pytest.fixture
def with_lies(tmp_path: Path) -> Callable[[Work, str, int], None]:
    """Runs a coroutine in a refresh whose messages of a kind wait at the hub; d's keys are of no use to it."""

    def run(work: Work, waiting: str, count: int) -> None:
        async def main(hub: Any) -> None:
            members = await with_liar(hub, Quorum(2, 4))
            members.lost.add(waiting)
            making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
            await members.run_until(asyncio.ensure_future(hub.fleet.until(waiting, count)))
            await work(hub, members)
            making.cancel()

        asyncio.run(with_parts(tmp_path, main))

    return run


def test_member_says_each_time_what_it_complains_of(with_lies: Callable[[Work, str, int], None]) -> None:
    async def work(hub: Any, _members: WithLiar) -> None:
        node = Node(hub, "d")
        plan = _core.view(node.last("epoch/plan")[0])
        await node.epochs._feed(member.KeysMade(PAYROLL, plan["hash"], ()))  # which its module has made
        for _ in range(2):
            await node.epochs._on_prepare(HUB, list(node.last("epoch/prepare")))
        assert node.said == [(HUB, "epoch/plan-keys"), *2 * [(HUB, "epoch/complaint")]]
        first, second = (fields for _, kind, fields in node.fleet.posted if kind == "epoch/complaint")
        assert first == second
        assert [_core.view(complaint)["index"] for complaint in first[0]] == [4, 4]

    with_lies(work, "epoch/prepare", 8)  # the first four were of the creation


def test_dealer_opens_what_it_dealt_and_notes_it(with_lies: Callable[[Work, str, int], None]) -> None:
    async def work(hub: Any, _members: WithLiar) -> None:
        node = Node(hub, "a")
        configuration, complaint = node.last("epoch/dispute")
        await node.epochs._on_dispute(HUB, [configuration, complaint])
        ((_, kind, fields),) = node.fleet.posted
        assert (kind, _core.view(fields[0])["complaint"]) == ("epoch/opening", _core.view(complaint)["hash"])
        assert node.journal.steps == [(2, "opened")]

    with_lies(work, "epoch/dispute", 2)


def test_n95_what_a_dealer_does_not_open_is_no_refusal_of_the_plan(
    with_lies: Callable[[Work, str, int], None],
) -> None:
    async def work(hub: Any, _members: WithLiar) -> None:
        node = Node(hub, "c")  # it has dealt nothing
        dispute = next(fields for _, fields in hub.fleet.of_kind("epoch/dispute"))
        await node.epochs._on_dispute(HUB, list(dispute))
        assert node.said == []

    with_lies(work, "epoch/dispute", 2)
