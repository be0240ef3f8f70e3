"""A member's part in epoch changes with a real module: what it takes up, shows, erases, and from whom."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.hub.conftest import FakeFleet, with_parts
from tests.unit.hub.members import Members, with_domain

from quorate import _core
from quorate.hsm import Hsm
from quorate.ids import HUB, DomainId, NodeId
from quorate.node.epochs import Epochs

PAYROLL = DomainId("payroll")
A, B, C = (NodeId(name) for name in "abc")


@dataclass
class Journal:
    steps: list[tuple[int, str]] = field(default_factory=list)

    def epoch(self, domain: DomainId, epoch: int, step: str) -> None:
        assert domain == PAYROLL
        self.steps.append((epoch, step))


class Node:
    """The member's part of one node, over its module in the hub's test bench."""

    def __init__(self, hub: Any, name: str) -> None:
        self.hub, self.name = hub, NodeId(name)
        self.fleet, self.journal = FakeFleet(), Journal()
        self.changed: list[DomainId] = []
        self.erased = 0
        fleet, journal = self.fleet, self.journal
        any_fleet: Any = fleet
        any_journal: Any = journal
        module = hub.modules[name]
        self.epochs = Epochs(Hsm(module), any_fleet, any_journal, self.changed.append, self._on_erased)

    def _on_erased(self) -> None:
        self.erased += 1

    def last(self, kind: str) -> tuple[Any, ...]:
        """The last message of a kind that the hub has for this node."""
        fields: tuple[Any, ...] = [fields for to, fields in self.hub.fleet.of_kind(kind) if to == self.name][
            -1
        ]
        return fields

    @property
    def said(self) -> list[tuple[NodeId, str]]:
        return [(to, kind) for to, kind, _ in self.fleet.posted]


Work = Callable[[Any, Members, Node], Awaitable[None]]


@pytest.fixture
def in_epoch_two(tmp_path: Path) -> Callable[[Work], None]:
    """Runs a coroutine where epoch 2 is committed; a has prepared it and has not heard of the commit."""

    def run(work: Work) -> None:
        async def main(hub: Any) -> None:
            members = await with_domain(hub)
            members.lost |= {"epoch/commit", "epoch/erase"}
            making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
            await members.run_until(asyncio.ensure_future(hub.fleet.until("epoch/commit", 6)))
            await members.settle()
            await work(hub, members, Node(hub, "a"))
            making.cancel()

        asyncio.run(with_parts(tmp_path, main))

    return run


def test_commit_is_taken_up_told_once_and_answered_again(in_epoch_two: Callable[[Work], None]) -> None:
    async def work(_hub: Any, _members: Members, a: Node) -> None:
        assert (a.epochs.current[PAYROLL].epoch.value, a.epochs.retired) == (1, {})
        for _ in range(2):
            await a.epochs._on_commit(HUB, a.last("epoch/commit"))
        assert (a.epochs.current[PAYROLL].epoch.value, a.epochs.retired) == (2, {PAYROLL: [1]})
        assert a.epochs.serves(PAYROLL)
        assert (a.changed, a.journal.steps) == ([PAYROLL], [(2, "activated")])
        assert a.said == [(HUB, "epoch/activated")] * 2
        assert a.fleet.posted[0] == a.fleet.posted[1]

    in_epoch_two(work)


def test_n48_member_shows_the_commit_to_another_and_it_speaks_for_itself(
    in_epoch_two: Callable[[Work], None],
) -> None:
    async def work(hub: Any, _members: Members, a: Node) -> None:
        hub.modules["b"].activate(*a.last("epoch/commit"))
        configuration, certificate, _ = hub.modules["b"].commit_certificate("payroll")
        await a.epochs._on_commit(B, (configuration, certificate[:1], []))
        assert (a.epochs.current[PAYROLL].epoch.value, a.changed) == (1, [])
        await a.epochs._on_commit(B, (configuration, certificate, []))
        assert (a.epochs.current[PAYROLL].epoch.value, a.changed) == (2, [PAYROLL])

    in_epoch_two(work)


def test_certificate_that_a_member_made_up_is_no_refusal_of_the_plan(
    in_epoch_two: Callable[[Work], None],
) -> None:
    """Else any member aborts a change in the name of another, which is then left out or blamed."""

    async def work(_hub: Any, _members: Members, a: Node) -> None:
        configuration, _, dealings = a.last("epoch/commit")
        await a.epochs._on_commit(B, (configuration, [], dealings))
        assert a.said == []

    in_epoch_two(work)


def test_member_without_a_share_learns_of_the_epoch_and_does_not_serve(
    in_epoch_two: Callable[[Work], None],
) -> None:
    async def work(hub: Any, members: Members, a: Node) -> None:
        members.leave("c")
        for name in ("a", "b"):
            hub.modules[name].activate(*a.last("epoch/commit"))
        members.heartbeats()
        await hub.fleet.settle()
        members.lost.clear()
        await members.make(hub.changes.refresh(PAYROLL))
        c = Node(hub, "c")
        for row in await hub.database.committed_after("payroll", 1):
            receipts, dealings = _core.decode(row.receipts), _core.decode(row.dealings)
            await c.epochs._on_commit(HUB, (row.configuration, receipts, dealings))
        assert c.epochs.current[PAYROLL].epoch.value == 3
        assert not c.epochs.serves(PAYROLL)
        assert c.journal.steps == [(2, "activated"), (3, "learnt")]
        assert [fields[1] for _, _, fields in c.fleet.posted][1:] == [[]]

    in_epoch_two(work)


def test_erase_is_proven_to_the_hub_and_noted_once(in_epoch_two: Callable[[Work], None]) -> None:
    async def work(hub: Any, _members: Members, a: Node) -> None:
        await a.epochs._on_commit(HUB, a.last("epoch/commit"))
        receipts = [hub.modules[name].activate(*a.last("epoch/commit"))[0] for name in "abc"]
        await a.epochs._on_erase(HUB, (receipts[:2],))
        assert (a.erased, a.epochs.retired, a.said) == (0, {PAYROLL: [1]}, [(HUB, "epoch/activated")])
        for _ in range(2):
            await a.epochs._on_erase(HUB, (receipts,))
        assert (a.erased, a.epochs.retired) == (1, {})
        assert a.journal.steps == [(2, "activated"), (2, "erased")]
        assert a.said[1:] == [(HUB, "epoch/erased")] * 2
        statement = hub.hub.verify(a.fleet.posted[-1][2][0])
        assert (statement["signer"], statement["domain"], statement["below"]) == ("a", "payroll", 2)

    in_epoch_two(work)


def test_hub_is_told_of_all_epochs_once_and_then_of_changes(in_epoch_two: Callable[[Work], None]) -> None:
    async def work(_hub: Any, _members: Members, a: Node) -> None:
        since, version, rows = a.epochs.news()
        assert (since, [row[:2] for row in rows]) == (0, [["payroll", 1]])
        assert a.epochs.news() == (version, version, [])
        await a.epochs._on_commit(HUB, a.last("epoch/commit"))
        configuration = a.epochs.current[PAYROLL].configuration
        since, later, rows = a.epochs.news()
        assert (since, rows) == (version, [["payroll", 2, configuration, [1], False]])
        assert a.epochs.news() == (later, later, [])
        a.epochs.tell_all()
        assert a.epochs.news() == (0, later, rows)

    in_epoch_two(work)
