"""Nodes whose vaults are older copies, at the hub: what they say counts for nothing until a new epoch (attack N89)."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.hub.members import NAMES, held, with_domain
from tests.unit.hub.test_changes import Clock, tick

from quorate import _core
from quorate.hub.changes import REBUILD_AFTER, REPAIR_AFTER
from quorate.ids import DomainId, NodeId, Quorum

Run = Callable[[Any], None]
PAYROLL = DomainId("payroll")
B, D = NodeId("b"), NodeId("d")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def copied(hub: Any, *names: str) -> None:
    """Keeps copies of vaults; then the modules start anew, and tell the hub."""
    for name in names:
        shutil.copytree(hub.directory / name, hub.directory / f"{name}-copy")
        hub.modules[name].close()
        hub.modules[name] = _core.Module.open(hub.directory / name)
        greet(hub, name)


def greet(hub: Any, name: str) -> None:
    hub.hub.open_message(hub.modules[name].hellos("hub")[0])


def roll_back(hub: Any, name: str) -> None:
    """The node goes on with its copy, and is shown what it had come to."""
    hub.modules[name].close()
    hub.modules[name] = _core.Module.open(hub.directory / f"{name}-copy")
    with pytest.raises(_core.CoreError) as refused:
        greet(hub, name)
    assert refused.value.code == "rolled_back"
    later = hub.hub.mark_of(name)
    assert later is not None and hub.modules[name].take_evidence(later)
    greet(hub, name)


def test_n89_member_on_an_older_copy_is_dealt_a_share_of_a_new_epoch(with_hub: Run, clock: Clock) -> None:
    """Its copy is of the epoch that is current, which it had prepared: nothing but what it says tells that it has gone
    back.
    """

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        copied(hub, "b")
        roll_back(hub, "b")
        members.heartbeats()
        settlings = hub.epochs.settlings
        assert (settlings.lagging(PAYROLL), hub.nodes.reason(B) is None) == ({B}, False)
        assert held(hub, "b") == [(1, "current", [2])], "what the copy brought back stays for now"

        assert not await tick(hub, members)
        clock.monotonic += REPAIR_AFTER
        assert await tick(hub, members)
        plan = _core.view(hub.fleet.of_kind("epoch/plan")[-1][1][0])
        assert (plan["purpose"], [dealer["node"] for dealer in plan["dealers"]]) == ("repair", ["a", "c"])
        assert [held(hub, name) for name in NAMES] == [[(2, "current", [index])] for index in (1, 2, 3)]
        assert (settlings.lagging(PAYROLL), hub.nodes.reason(B)) == (frozenset(), None)

    with_hub(work)


def test_n89_copy_from_before_an_erasure_follows_and_erases_again(with_hub: Run, clock: Clock) -> None:
    """The hub keeps no commit of the epochs between; the node has proven before that it erased what it has again."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        copied(hub, "b")
        for _ in range(2):
            await members.make(hub.changes.refresh(PAYROLL))
        assert await hub.database.erasures() == {"payroll": {"a": 3, "b": 3, "c": 3}}
        hub.hub.note_mark("b", hub.modules["b"].mark())
        roll_back(hub, "b")
        assert held(hub, "b") == [(1, "current", [2])]
        await members.come_back("b")
        assert held(hub, "b") == [(1, "retired", [2]), (3, "current", [])]
        clock.monotonic += REPAIR_AFTER
        await tick(hub, members)
        clock.monotonic += REPAIR_AFTER
        assert await tick(hub, members)
        assert [held(hub, name) for name in NAMES] == [[(4, "current", [index])] for index in (1, 2, 3)]
        assert hub.epochs.settlings.lagging(PAYROLL) == frozenset()

    with_hub(work)


def test_n89_copy_of_a_node_that_has_left_has_its_share_erased_again(with_hub: Run, clock: Clock) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, ("a", "b", "c", "d"), Quorum(2, 4))
        copied(hub, "d")
        await members.make(hub.changes.reshare(PAYROLL, Quorum(2, 3), only=list(NAMES)))
        assert held(hub, "d") == [(2, "current", [])]
        hub.hub.note_mark("d", hub.modules["d"].mark())
        roll_back(hub, "d")
        await members.come_back("d")
        assert hub.epochs.settlings.lagging(PAYROLL) == {D}
        await tick(hub, members)
        clock.monotonic += REPAIR_AFTER
        assert await tick(hub, members)
        assert [held(hub, name) for name in (*NAMES, "d")] == [
            *([(3, "current", [index])] for index in (1, 2, 3)),
            [(3, "current", [])],
        ]
        assert hub.epochs.settlings.lagging(PAYROLL) == frozenset()

    with_hub(work)


def test_n89_too_many_copies_are_dealt_from_what_they_brought_back(with_hub: Run, clock: Clock) -> None:
    """With fewer than k others, the key would be lost; after the time in which the others might come back."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        copied(hub, "a", "b")
        roll_back(hub, "a")
        roll_back(hub, "b")
        members.heartbeats()
        clock.monotonic += REPAIR_AFTER
        assert not await tick(hub, members)
        clock.monotonic += REBUILD_AFTER
        assert await tick(hub, members)
        plan = _core.view(hub.fleet.of_kind("epoch/plan")[-1][1][0])
        assert (plan["purpose"], [dealer["node"] for dealer in plan["dealers"]]) == ("repair", ["a", "b"])
        assert [held(hub, name) for name in NAMES] == [[(2, "current", [index])] for index in (1, 2, 3)]

    with_hub(work)


def test_n89_hub_takes_no_record_of_a_node_on_an_older_copy(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await with_domain(hub)
        hub.nodes.behind[B] = "it showed start 3 after start 5"
        await hub.records._propose(B, b"r" * 16, "", hub.modules["b"].records("charter")[0])
        ((to, fields),) = hub.fleet.of_kind("record/result")
        assert (to, fields[1]) == (B, "rolled_back")
        hub.nodes.greeted(B)
        assert not hub.nodes.is_quarantined(B)

    with_hub(work)
