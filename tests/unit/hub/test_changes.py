"""Refreshes, reshares and repairs with real modules: to their end, with members that are away, and on time."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.hub.members import NAMES, TWO_OF_THREE, Members, create, held, with_domain

from quorate import _core
from quorate.errors import BadInput
from quorate.host.dispatch import Dropped
from quorate.hub import changes, epochs, settling
from quorate.hub.changes import (
    BACKOFF,
    REBUILD_AFTER,
    REFRESH_EVERY,
    REPAIR_AFTER,
    REST,
    SPREAD,
    Changes,
    NotEnoughHolders,
)
from quorate.hub.epochs import Busy, EpochAborted, Epochs, Order
from quorate.ids import DomainId, NodeId, Quorum

Run = Callable[[Any], None]
PAYROLL = DomainId("payroll")
A, B, C, D = (NodeId(name) for name in "abcd")
FOUR = ("a", "b", "c", "d")
TWO_OF_FOUR = Quorum(2, 4)
TEN_YEARS = 10 * 366 * 24 * 3600.0


class Clock:
    """The time as the hub sees it; it stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.wall = 1000.0, 1.8e9
        seen = SimpleNamespace(monotonic=lambda: self.monotonic, time=lambda: self.wall)
        for module in (changes, epochs, settling):
            monkeypatch.setattr(module, "time", seen)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def phases(hub: Any) -> list[tuple[int, str]]:
    return [(row.epoch, row.phase) for row in await hub.database.attempts()]


async def tick(hub: Any, members: Members) -> bool:
    """Has the hub begin what is due, and carries it through; whether anything was."""
    hub.changes.tick()
    tasks = [turn.task for turn in hub.changes._turns.values() if turn.task is not None]
    if tasks:
        await members.run_until(asyncio.ensure_future(asyncio.wait(tasks)))
        await members.settle()
        members.heartbeats()
    return bool(tasks)


def commits_to(hub: Any, node: NodeId) -> list[int]:
    """The epochs whose certificates a node was sent."""
    return [_core.view(fields[0])["epoch"] for to, fields in hub.fleet.of_kind("epoch/commit") if to == node]


def commitments(hub: Any, name: str) -> list[bytes]:
    (current,) = [each for each in hub.modules[name].epochs() if each["state"] == "current"]
    return list(_core.view(current["statement"])["commitments"])


# To the end.


def test_refresh_gives_the_same_key_in_new_shards_and_has_the_old_ones_erased(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        before = commitments(hub, "a")
        domain = await members.make(hub.changes.refresh(PAYROLL))
        assert hub.epochs.domains[PAYROLL] == domain == hub.committed[-1]
        assert (domain.epoch, domain.shards) == (2, ((1, A), (2, B), (3, C)))
        assert [held(hub, name) for name in NAMES] == [[(2, "current", [index])] for index in (1, 2, 3)]
        after = commitments(hub, "c")
        assert (after[0], after[1] == before[1]) == (before[0], False)
        assert await phases(hub) == [(2, "closed")], "what nobody has to be shown any more is forgotten"
        assert await hub.database.erasures() == {"payroll": {"a": 2, "b": 2, "c": 2}}
        assert (hub.epochs.settlings.debts(PAYROLL), hub.epochs.settlings.waits_for(PAYROLL)) == ({}, ())
        assert hub.audited().count("erased") == 3

    with_hub(work)


def test_refresh_names_its_steps(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
        await members.run_until(making)
        _, steps = await making
        named = [step["step"] for step in steps]
        assert named == ["planned", "keys", "dealt", "prepared", "committed", "activated"]

    with_hub(work)


def test_n52_earlier_epoch_is_owed_until_each_member_has_proven_that_it_is_erased(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        members.lost.add("epoch/erase")
        await members.make(hub.changes.refresh(PAYROLL))
        settlings = hub.epochs.settlings
        assert (settlings.debts(PAYROLL), settlings.waits_for(PAYROLL)) == ({1: 3}, (A, B, C))
        members.lost.clear()
        for name, left in (("a", {1: 2}), ("b", {1: 1}), ("c", {})):
            assert await phases(hub) == [(1, "closed"), (2, "committed")]
            members.leave(name)
            await members.come_back(name)
            assert settlings.debts(PAYROLL) == left
        assert await phases(hub) == [(2, "closed")]

    with_hub(work)


def test_n99_debts_count_indices_and_not_nodes(with_hub: Run) -> None:
    """3 of 4 indices at three nodes: a holds two of them, deals both, and owes both until it has erased."""
    shards = ((1, A), (2, A), (3, B), (4, C))

    async def work(hub: Any) -> None:
        members = await with_domain(hub)  # for the nodes; this domain is another
        charter, mail = hub.charter("mail", *NAMES), DomainId("mail")
        await members.make(
            hub.epochs.make(Order(mail, charter, "create", 0, 3, ((NodeId("hub"), None),), shards))
        )
        members.lost.add("epoch/erase")
        refreshed = await members.make(hub.changes.refresh(mail))
        assert refreshed.shards == shards
        assert [to.value for to, _ in hub.fleet.of_kind("epoch/deal")] == ["a", "b"]
        settlings = hub.epochs.settlings
        assert settlings.debts(mail) == {1: 4}
        members.lost.clear()
        members.leave("a")
        await members.come_back("a")
        assert settlings.debts(mail) == {1: 2}
        for name in ("b", "c"):
            members.leave(name)
            await members.come_back(name)
        assert settlings.debts(mail) == {}

        members.leave("a")  # two nodes are left, and the indices of two are not enough for three
        with pytest.raises(NotEnoughHolders, match="3 shards, and the holders of 2 are live"):
            await hub.changes.refresh(mail)

    with_hub(work)


def test_reshare_moves_the_key_to_another_committee_and_the_one_that_leaves_erases(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, spare=("d",))
        key = commitments(hub, "a")[0]
        domain = await members.make(hub.changes.reshare(PAYROLL, TWO_OF_THREE, only=["a", "c", "d"]))
        assert (domain.epoch, domain.threshold, domain.shards) == (2, 2, ((1, A), (2, D), (3, C)))
        assert held(hub, "b") == [(2, "current", [])]
        assert [held(hub, name) for name in "acd"] == [[(2, "current", [index])] for index in (1, 3, 2)]
        assert commitments(hub, "d")[0] == key
        assert await phases(hub) == [(2, "closed")]
        assert await hub.database.erasures() == {"payroll": {"a": 2, "b": 2, "c": 2}}
        assert hub.epochs.settlings.debts(PAYROLL) == {}

    with_hub(work)


def test_reshare_changes_threshold_and_number(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, spare=("d",))
        domain = await members.make(hub.changes.reshare(PAYROLL, Quorum(3, 4), only=None))
        assert (domain.threshold, domain.shards) == (3, ((1, A), (2, B), (3, C), (4, D)))
        assert len(commitments(hub, "a")) == 3
        back = await members.make(hub.changes.reshare(PAYROLL, TWO_OF_THREE, only=["b", "c", "d"]))
        assert (back.epoch, back.threshold, back.shards) == (3, 2, ((2, B), (3, C), (4, D)))
        assert [held(hub, name) for name in FOUR] == [
            [(3, "current", [])], *([(3, "current", [index])] for index in (2, 3, 4)),
        ]  # fmt: skip
        assert await phases(hub) == [(3, "closed")]

    with_hub(work)


def test_committee_of_a_reshare_needs_holders_that_are_allowed_and_live(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await with_domain(hub, spare=("d",))
        planned = len(hub.fleet.posted)
        with pytest.raises(BadInput, match="does not allow x"):
            await hub.changes.reshare(PAYROLL, TWO_OF_THREE, only=["a", "b", "x"])
        with pytest.raises(NotEnoughHolders, match="2 of 2 holders are live"):
            await hub.changes.reshare(PAYROLL, TWO_OF_THREE, only=["a", "b"])
        with pytest.raises(BadInput, match="no domain nothing"):
            await hub.changes.refresh(DomainId("nothing"))
        assert (await phases(hub), len(hub.fleet.posted)) == ([(1, "closed")], planned)

    with_hub(work)


# One at a time, and given up.


def test_n49_of_two_changes_at_once_the_second_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, spare=("d",))
        first = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
        await hub.fleet.until("epoch/plan", 6)
        for second in (
            hub.changes.refresh(PAYROLL),
            hub.changes.reshare(PAYROLL, TWO_OF_THREE, only=["b", "c", "d"]),
        ):
            with pytest.raises(Busy) as caught:
                await asyncio.wait_for(second, 5)
            assert caught.value.code == "epoch_busy"
        await members.run_until(first)
        assert (await first)[0].epoch == 2
        assert await phases(hub) == [(1, "closed"), (2, "committed")]

    with_hub(work)


def test_n49_of_two_changes_ordered_together_one_is_planned(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        both = asyncio.gather(*(hub.changes.refresh(PAYROLL) for _ in range(2)), return_exceptions=True)
        await members.run_until(both)
        first, second = await both
        assert (first[0].epoch, type(second)) == (2, Busy)
        assert [epoch for epoch, _ in await phases(hub)] == [1, 2]

    with_hub(work)


def test_change_that_is_given_up_leaves_the_epoch_and_burns_its_number(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
        await hub.fleet.until("epoch/plan", 6)
        shown = hub.epochs.under_way(PAYROLL)
        assert (shown["epoch"], shown["purpose"], shown["phase"]) == (2, "refresh", "planned")
        assert shown["waits_for"] == ["a", "b", "c"]
        assert await hub.epochs.cancel(PAYROLL, "the operator: b is replaced")
        with pytest.raises(EpochAborted, match=r"b is replaced \(cancelled\)"):
            await making
        await members.settle()
        assert hub.epochs.under_way(PAYROLL) is None
        assert not await hub.epochs.cancel(PAYROLL, "again")
        assert held(hub, "a") == [(1, "current", [1])]
        assert (await members.make(hub.changes.refresh(PAYROLL))).epoch == 3
        assert await phases(hub) == [(3, "closed")]

    with_hub(work)


def test_n37_two_changes_of_a_domain_are_some_time_apart(
    with_hub: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "SPACING_SECONDS", 0.2)

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        await members.make(hub.changes.refresh(PAYROLL))
        begun = asyncio.get_running_loop().time()
        await members.make(hub.changes.refresh(PAYROLL))
        assert (
            asyncio.get_running_loop().time() - begun > 0.15
        )  # the first took a little from its commit to its end

    with_hub(work)


# Members that are away.


def test_n43_change_names_the_member_that_it_left_without_a_share(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        members.leave("c")
        await members.make(hub.changes.refresh(PAYROLL))
        settlings = hub.epochs.settlings
        assert settlings.waits_for(PAYROLL) == (C,)
        assert [held(hub, name) for name in ("a", "c")] == [
            [(1, "retired", [1]), (2, "current", [1])], [(1, "current", [3])],
        ]  # fmt: skip
        await members.come_back("c")
        assert settlings.lagging(PAYROLL) == {C}
        assert held(hub, "c") == [(1, "retired", [3]), (2, "current", [])]

    with_hub(work)


def test_member_that_missed_epochs_is_shown_them_in_order_and_then_repaired(
    with_hub: Run, clock: Clock
) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, FOUR, TWO_OF_FOUR)
        members.leave("d")
        for _ in range(3):
            await members.make(hub.changes.refresh(PAYROLL))
        settlings = hub.epochs.settlings
        assert [held(hub, name) for name in "abc"] == [[(4, "current", [index])] for index in (1, 2, 3)]
        assert settlings.debts(PAYROLL) == {1: 1, 2: 1, 3: 1}
        seen = len(commits_to(hub, D))
        await members.come_back("d")
        assert commits_to(hub, D)[seen:][-3:] == [2, 3, 4]
        assert held(hub, "d") == [(1, "retired", [4]), (4, "current", [])]
        assert D not in {to for to, _ in hub.fleet.of_kind("epoch/erase")}, "its old share stays for now"
        assert (settlings.lagging(PAYROLL), settlings.waits_for(PAYROLL)) == ({D}, (D,))

        assert not await tick(hub, members)
        clock.monotonic += REPAIR_AFTER - 0.01
        assert not await tick(hub, members)
        clock.monotonic += 0.01
        assert await tick(hub, members)
        assert [held(hub, name) for name in FOUR] == [[(5, "current", [index])] for index in (1, 2, 3, 4)]
        assert (settlings.lagging(PAYROLL), settlings.waits_for(PAYROLL)) == (frozenset(), ())
        assert settlings.debts(PAYROLL) == {}
        assert (await phases(hub))[-1] == (5, "closed")

    with_hub(work)


@pytest.mark.parametrize("retired", [False, True])
def test_commits_that_an_absent_holder_must_be_shown_are_kept_unless_it_is_retired(
    with_hub: Run, retired: bool
) -> None:
    """d has a share of epoch 1; of epoch 2, which is made without it, nothing is left when epoch 3 is."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub, FOUR, TWO_OF_FOUR)
        members.leave("d")
        if retired:
            hub.nodes._retired.add(D)
        await members.make(hub.changes.reshare(PAYROLL, TWO_OF_THREE, only=list(NAMES)))
        await members.make(hub.changes.refresh(PAYROLL))
        assert hub.epochs.settlings.debts(PAYROLL) == {1: 1}
        kept = [epoch for epoch, _ in await phases(hub)]
        assert kept == ([1, 3] if retired else [1, 2, 3])
        if not retired:
            await members.come_back("d")
            assert held(hub, "d") == [(3, "current", [])]
            assert await phases(hub) == [(3, "closed")]

    with_hub(work)


def test_nothing_is_erased_while_too_few_indices_hold_the_epoch(with_hub: Run) -> None:
    """2 of 3: of three indices two may be believed only together with the third."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        members.leave("c")
        await members.make(hub.changes.refresh(PAYROLL))
        await members.come_back("c")
        assert not hub.fleet.of_kind("epoch/erase")
        assert hub.epochs.settlings.debts(PAYROLL) == {1: 3}
        assert [state for name in NAMES for _, state, _ in held(hub, name)].count("retired") == 3

    with_hub(work)


def test_member_without_a_share_deals_nothing(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, FOUR, TWO_OF_FOUR)
        members.leave("a")
        await members.make(hub.changes.refresh(PAYROLL))
        await members.come_back("a")
        dealt = len(hub.fleet.of_kind("epoch/deal"))
        await members.make(hub.changes.refresh(PAYROLL))
        assert [to for to, _ in hub.fleet.of_kind("epoch/deal")][dealt:] == [B, C]

    with_hub(work)


def test_n43_change_that_too_few_are_there_for_is_refused_before_it_is_planned(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, FOUR, Quorum(3, 4))
        members.leave("a")
        members.leave("b")
        with pytest.raises(NotEnoughHolders, match="3 shards, and the holders of 2 are live"):
            await hub.changes.refresh(PAYROLL)
        assert await phases(hub) == [(1, "closed")]

    with_hub(work)


def test_member_that_is_repaired_again_and_again_has_to_wait(with_hub: Run, clock: Clock) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, FOUR, TWO_OF_FOUR)

        async def lag() -> None:
            members.leave("d")
            await members.make(hub.changes.refresh(PAYROLL))
            await members.come_back("d")
            await tick(hub, members)
            clock.monotonic += REPAIR_AFTER

        await lag()
        assert await tick(hub, members)
        await lag()
        assert not await tick(hub, members)
        clock.monotonic += BACKOFF[0] - REPAIR_AFTER
        assert await tick(hub, members)

    with_hub(work)


def test_epoch_whose_holders_are_gone_is_rebuilt_from_the_retired_one(with_hub: Run, clock: Clock) -> None:
    """a and b made epoch 2; b is gone now, and c has its share of epoch 1 only, as a has too."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        key = commitments(hub, "a")[0]
        members.leave("c")
        await members.make(hub.changes.refresh(PAYROLL))
        members.leave("b")
        await members.come_back("c")
        assert not await tick(hub, members)
        clock.monotonic += REBUILD_AFTER - 0.01
        assert not await tick(hub, members), "b may be back any moment"
        clock.monotonic += 0.01
        assert await tick(hub, members)
        plan = _core.view(hub.fleet.of_kind("epoch/plan")[-1][1][0])
        assert (plan["purpose"], plan["from_epoch"], plan["to_epoch"]) == ("repair", 1, 3)
        assert (held(hub, "a")[-1], held(hub, "c")[-1]) == ((3, "current", [1]), (3, "current", [3]))
        assert commitments(hub, "c")[0] == key

        await members.come_back("b")
        assert held(hub, "b")[-1] == (3, "current", [])
        await tick(hub, members)
        clock.monotonic += BACKOFF[0]
        assert await tick(hub, members)
        assert [held(hub, name) for name in NAMES] == [[(4, "current", [index])] for index in (1, 2, 3)]
        assert hub.epochs.settlings.debts(PAYROLL) == {}

    with_hub(work)


def test_n45_member_holds_the_epoch_by_its_own_word_only(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        members.lost |= {"epoch/commit", "epoch/erase"}
        making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
        await members.run_until(asyncio.ensure_future(hub.fleet.until("epoch/commit", 6)))
        await members.settle()
        settlings, certificate = hub.epochs.settlings, hub.fleet.of_kind("epoch/commit")[-1][1]
        assert settlings.waits_for(PAYROLL) == (A, B, C)
        receipts = [hub.modules[name].activate(*certificate)[0] for name in NAMES]
        settlings._on_activated(A, [certificate[0], receipts])  # all are sent by one node
        assert settlings.waits_for(PAYROLL) == (B, C)
        assert not hub.fleet.of_kind("epoch/erase")
        for node, receipt in ((B, receipts[1]), (C, receipts[2])):
            settlings._on_activated(node, [certificate[0], [receipt]])
        await making
        assert {to for to, _ in hub.fleet.of_kind("epoch/erase")} == {A, B, C}

        erased = hub.modules["a"].erase(receipts)
        with pytest.raises(Dropped):
            await settlings._on_erased(B, [erased])
        assert settlings.debts(PAYROLL) == {1: 3}
        await settlings._on_erased(A, [erased])
        assert settlings.debts(PAYROLL) == {1: 2}

    with_hub(work)


def test_n45_receipt_that_a_member_is_prepared_does_not_say_that_it_holds_the_epoch(with_hub: Run) -> None:
    """Else a host puts it into the erase certificate, and every module refuses that for good."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        members.lost |= {"epoch/commit", "epoch/erase"}
        making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
        await members.run_until(asyncio.ensure_future(hub.fleet.until("epoch/commit", 6)))
        await members.settle()
        configuration = hub.fleet.of_kind("epoch/commit")[-1][1][0]
        prepared = hub.modules["b"].prepare(configuration, [], [])
        hub.epochs.settlings._on_activated(B, [configuration, prepared])
        making.cancel()
        assert hub.epochs.settlings.waits_for(PAYROLL) == (A, B, C)

    with_hub(work)


def test_member_that_left_and_comes_again_later_is_dealt_its_share(with_hub: Run) -> None:
    """It knows the epoch that it left at, and none of those between."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub, spare=("d",))
        await members.make(hub.changes.reshare(PAYROLL, TWO_OF_THREE, only=["a", "b", "d"]))
        await members.make(hub.changes.refresh(PAYROLL))
        await members.make(hub.changes.refresh(PAYROLL))
        assert held(hub, "c") == [(2, "current", [])]
        await members.make(hub.changes.reshare(PAYROLL, TWO_OF_THREE, only=["a", "b", "c"]))
        assert held(hub, "c") == [(5, "current", [3])]
        assert hub.epochs.settlings.debts(PAYROLL) == {}

    with_hub(work)


def test_domain_is_busy_until_its_new_epoch_is_taken_up(
    with_hub: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a change could begin from the epoch that was replaced, or a domain be created twice."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        seen: list[bool] = []
        read = hub.database.committed_after

        async def watched(*asked: Any) -> Any:
            seen.append(hub.epochs.is_busy(PAYROLL) or hub.epochs.domains[PAYROLL].epoch == 2)
            return await read(*asked)

        monkeypatch.setattr(hub.database, "committed_after", watched)
        await members.make(hub.changes.refresh(PAYROLL))
        assert seen[0]

    with_hub(work)


def test_change_that_is_being_committed_cannot_be_given_up(
    with_hub: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        asked: list[asyncio.Future[bool]] = []
        write = hub.database.put_attempt

        async def watched(*row: Any, **columns: Any) -> None:
            if columns.get("phase") == "committed":
                asked.append(asyncio.ensure_future(hub.epochs.cancel(PAYROLL, "too late")))
                await asyncio.sleep(0)  # it is asked before the commit is written
            await write(*row, **columns)

        monkeypatch.setattr(hub.database, "put_attempt", watched)
        await members.make(hub.changes.refresh(PAYROLL))
        assert [await each for each in asked] == [False]

    with_hub(work)


def test_restarted_hub_knows_what_is_owed_and_brings_it_to_its_end(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        members.lost.add("epoch/erase")
        await members.make(hub.changes.refresh(PAYROLL))
        members.lost.clear()
        members.leave("a")
        await members.come_back("a")
        for name in NAMES:
            members.leave(name)

        restarted = Epochs(
            hub.hsm, hub.fleet, hub.enrolments._journal, hub.database, hub.nodes, hub.committed.append
        )
        await restarted.load()
        assert restarted.settlings.debts(PAYROLL) == {1: 2}
        hub.epochs, members = restarted, Members(hub, restarted)
        for name in NAMES:
            hub.heartbeat(name)
            restarted.node_changed(NodeId(name), None)
        await members.settle()
        assert restarted.settlings.debts(PAYROLL) == {}
        assert await phases(hub) == [(2, "closed")]
        assert held(hub, "c") == [(2, "current", [3])]

    with_hub(work)


# On time.


def test_domain_is_refreshed_when_its_epoch_is_a_day_old(with_hub: Run, clock: Clock) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        due = hub.changes.next_refresh(hub.epochs.domains[PAYROLL])
        assert clock.wall + (1 - SPREAD) * REFRESH_EVERY <= due <= clock.wall + REFRESH_EVERY
        clock.wall = due - 1
        assert not await tick(hub, members)
        clock.wall = due
        assert await tick(hub, members)
        assert (await phases(hub))[-1] == (2, "closed")
        assert _core.view(hub.fleet.of_kind("epoch/plan")[-1][1][0])["purpose"] == "refresh"
        assert not await tick(hub, members), "the next one is as old as its commit"

    with_hub(work)


@pytest.mark.parametrize(
    ("every", "later", "begins"),
    [(3600, 3600, True), (3600, (1 - SPREAD) * 3600 - 1, False), (0, 1e9, False)],
)
def test_interval_that_is_set_counts_also_after_a_restart(
    with_hub: Run, clock: Clock, every: int, later: float, begins: bool
) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        await hub.changes.set_refresh_every(PAYROLL, 7)
        await hub.changes.set_refresh_every(PAYROLL, every)
        hub.changes = Changes(hub.epochs, hub.database, hub.nodes)
        await hub.changes.load()
        clock.wall += later
        assert await tick(hub, members) == begins
        known = hub.epochs.domains[PAYROLL]
        due = hub.changes.next_refresh(known)
        assert due is None if every == 0 else (1 - SPREAD) * every <= due - known.at <= every

    with_hub(work)


def test_interval_of_a_creation_is_kept(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        await members.make(create(hub, hub.charter("mail", *NAMES), refresh_every=60))
        assert await hub.database.refresh_every() == {"mail": 60}
        assert hub.changes.refresh_every(DomainId("mail")) == 60
        assert hub.changes.refresh_every(PAYROLL) == REFRESH_EVERY

    with_hub(work)


def test_refresh_that_does_not_come_about_is_tried_again_later_and_later(with_hub: Run, clock: Clock) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, (*FOUR, "e"), Quorum(2, 5))
        clock.wall += REFRESH_EVERY
        for name in ("a", "b", "c"):  # two can deal, and three must be there
            members.leave(name)
        for wait in (BACKOFF[0], 2 * BACKOFF[0], 4 * BACKOFF[0]):
            assert await tick(hub, members)
            clock.monotonic += wait - 0.01
            assert not await tick(hub, members)
            clock.monotonic += 0.01
        assert await phases(hub) == [(1, "closed")]
        await members.come_back("c")
        assert await tick(hub, members)
        assert (await phases(hub))[-1] == (2, "committed")

    with_hub(work)


def test_no_refresh_on_time_while_an_earlier_epoch_can_still_be_opened(with_hub: Run, clock: Clock) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        members.lost.add("epoch/erase")
        await members.make(hub.changes.refresh(PAYROLL))
        members.lost.clear()
        clock.wall += REFRESH_EVERY
        assert not await tick(hub, members), "three shards are left of epoch 1, and two open it"
        members.leave("a")
        await members.come_back("a")
        assert not await tick(hub, members)
        members.leave("b")
        await members.come_back("b")
        assert await tick(hub, members)

    with_hub(work)


def test_what_opens_an_earlier_epoch_is_its_own_threshold(with_hub: Run, clock: Clock) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub, spare=("d",))
        members.lost.add("epoch/erase")
        await members.make(hub.changes.reshare(PAYROLL, Quorum(3, 4), only=None))
        members.lost.clear()
        members.leave("a")
        await members.come_back("a")
        assert hub.epochs.settlings.debts(PAYROLL) == {1: 2}
        clock.wall += REFRESH_EVERY
        assert not await tick(hub, members), "two shards of epoch 1 open it, if three open epoch 2"

    with_hub(work)


def test_refreshes_on_time_come_one_at_a_time_and_leave_time_for_clients(with_hub: Run, clock: Clock) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        for name in ("mail", "web"):
            await members.make(create(hub, hub.charter(name, *NAMES)))
        clock.wall += REFRESH_EVERY
        hub.changes.tick()
        hub.changes.tick()
        assert sum(turn.task is not None for turn in hub.changes._turns.values()) == 1
        await asyncio.sleep(0)  # it begins
        clock.monotonic += 1.5  # that is how long it takes
        assert await tick(hub, members)
        clock.monotonic += REST * 1.5 - 0.01
        assert not await tick(hub, members)
        clock.monotonic += 0.01
        assert await tick(hub, members)
        assert await tick(hub, members)
        assert not await tick(hub, members)
        assert [domain.epoch for domain in hub.epochs.domains.values()] == [2, 2, 2]

    with_hub(work)


def test_domains_of_one_age_do_not_come_due_at_once(with_hub: Run, clock: Clock) -> None:
    async def work(hub: Any) -> None:
        await with_domain(hub)
        (known,) = hub.epochs.domains.values()
        many = [replace(known, domain=DomainId(f"many-{number}")) for number in range(1000)]
        due = sorted(hub.changes.next_refresh(domain) - known.at for domain in many)
        assert all((1 - SPREAD) * REFRESH_EVERY <= each <= REFRESH_EVERY for each in due)
        least = min(due[at + 100] - due[at] for at in range(900))
        assert least > 0.05 * SPREAD * REFRESH_EVERY, "no hundred of them at once"

    with_hub(work)


def test_every_domain_is_looked_at_though_not_in_every_tick(
    with_hub: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        for name in ("mail", "web"):
            await members.make(create(hub, hub.charter(name, *NAMES)))
        monkeypatch.setattr(changes, "LOOK", 2)
        clock.wall += REFRESH_EVERY
        assert sum([await tick(hub, members) for _ in range(6)]) == 3
        assert [domain.epoch for domain in hub.epochs.domains.values()] == [2, 2, 2]

    with_hub(work)


def test_worn_shard_is_replaced_long_before_the_interval_is_over(with_hub: Run, clock: Clock) -> None:
    """Of 40 answers in an epoch 32 are given at a; nothing is refreshed on time."""

    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        await members.make(create(hub, hub.charter("mail", *NAMES, uses=40), refresh_every=0))
        a = hub.modules["a"]
        for fence in range(1, 33):
            members.heartbeats()
            assert not await tick(hub, members)
            session, request = a.open_session("mail")
            ((_, _, refused),) = a.answer(hub.hub.grant(request, [(1, "a", (1, fence))]))["given"]
            assert refused is None
            a.close_session(a.abandon(session, "expired"))
        members.heartbeats()
        assert hub.nodes.known[A].worn == {DomainId("mail")}
        assert await tick(hub, members)
        assert hub.epochs.domains[DomainId("mail")].epoch == 2
        assert hub.nodes.known[A].worn == set()
        assert not await tick(hub, members)
        assert hub.epochs.domains[PAYROLL].epoch == 1

    with_hub(work)


@pytest.mark.parametrize("jump", [TEN_YEARS, -TEN_YEARS], ids=["forward", "back"])
def test_n46_jump_of_the_wall_clock_activates_and_erases_nothing(
    with_hub: Run, clock: Clock, jump: float
) -> None:
    async def work(hub: Any) -> None:
        members = await with_domain(hub)
        making = asyncio.ensure_future(hub.changes.refresh(PAYROLL))
        members.lost.add("epoch/commit")
        await members.run_until(asyncio.ensure_future(hub.fleet.until("epoch/prepare", 6)))
        (prepared,) = [
            hub.modules["a"].prepare(fields[0], fields[1], [tuple(part) for part in fields[2]])
            for to, fields in hub.fleet.of_kind("epoch/prepare")[3:]
            if to == A
        ]
        members.taken = len(hub.fleet.posted)  # b and c do not get theirs
        hub.epochs._on_prepared(A, [prepared])
        await hub.fleet.settle()

        clock.wall += jump
        for known in hub.epochs._running.values():
            hub.epochs._feed(known, epochs.change.TimePassed())
        assert not await tick(hub, members)
        await hub.fleet.settle()
        assert hub.epochs.under_way(PAYROLL)["phase"] == "dealt"
        assert (hub.epochs.domains[PAYROLL].epoch, len(hub.fleet.of_kind("epoch/commit"))) == (1, 3)
        assert held(hub, "a") == [(1, "current", [1]), (2, "pending", [1])]
        assert await hub.epochs.cancel(PAYROLL, "the end of the test")
        with pytest.raises(EpochAborted):
            await making

    with_hub(work)
