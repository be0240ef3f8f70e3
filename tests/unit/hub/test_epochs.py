"""A domain's first epoch with real modules: to its commit, refused, cut short, and one at a time."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.hub.members import NAMES, Members, create, enrol_all

from quorate import _core
from quorate.errors import BadInput
from quorate.hub.epochs import DomainExists, EpochAborted, Epochs, NotEnoughHolders
from quorate.ids import DomainId, NodeId

Run = Callable[[Any], None]


def test_domain_is_committed_and_every_member_holds_its_shard(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        creating = create(hub, hub.charter("payroll", *NAMES))
        await Members(hub).run_until(creating)
        domain, steps = await creating
        assert (domain.epoch, domain.threshold, [index for index, _ in domain.shards]) == (1, 2, [1, 2, 3])
        assert [step["step"] for step in steps][-1] == "closed"
        for name in NAMES:
            (held,) = hub.modules[name].epochs()
            assert (held["state"], held["configuration"]) == ("current", domain.configuration)
        await hub.fleet.settle()
        (row,) = await hub.database.attempts()
        assert (row.phase, row.sealed) == ("closed", None)
        assert hub.committed == [domain]

    with_hub(work)


def test_n49_of_two_creations_at_once_one_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        charter = hub.charter("payroll", *NAMES)
        first, second = create(hub, charter), create(hub, charter)
        with pytest.raises(DomainExists):
            await second
        await Members(hub).run_until(first)
        assert (await first)[0].epoch == 1
        assert len(await hub.database.attempts()) == 1
        with pytest.raises(DomainExists):
            await create(hub, charter)

    with_hub(work)


def test_refusal_of_a_member_aborts_burns_the_number_and_names_the_reason(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        charter = hub.charter("payroll", *NAMES)
        creating = create(hub, charter)
        plans = await hub.fleet.until("epoch/plan", 3)
        plan_hash = _core.view(plans[0][1][0])["hash"]
        hub.epochs._on_refused(NodeId("b"), [plan_hash, "not_authorized", "no such charter", ["hub"]])
        with pytest.raises(EpochAborted, match="no such charter") as caught:
            await creating
        assert caught.value.culprits == ("hub",)
        assert {to.value for to, _ in hub.fleet.of_kind("epoch/abort")} == set(NAMES)
        await hub.fleet.settle()
        assert DomainId("payroll") not in hub.epochs.domains

        members = Members(hub)
        members.taken = len(hub.fleet.posted)
        again = create(hub, charter)
        await members.run_until(again)
        assert (await again)[0].epoch == 2
        await hub.fleet.settle()
        assert [(row.epoch, row.phase) for row in await hub.database.attempts()] == [
            (1, "aborted"), (2, "closed"),
        ]  # fmt: skip

    with_hub(work)


def test_keys_that_another_node_sends_do_not_count(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        creating = create(hub, hub.charter("payroll", *NAMES))
        plans = await hub.fleet.until("epoch/plan", 3)
        plan, charter = plans[0][1]
        plan_hash = _core.view(plan)["hash"]
        for name in NAMES:  # all keys are sent by one node
            hub.epochs._on_keys(NodeId("a"), [plan_hash, hub.modules[name].accept_plan(plan, charter)])
        await hub.fleet.settle()
        assert not hub.fleet.of_kind("epoch/prepare")
        assert not creating.done()
        creating.cancel()

    with_hub(work)


@pytest.mark.parametrize("after", ["planned", "dealt", "committed"])
def test_creation_that_a_restart_cut_short_is_aborted_or_finished(with_hub: Run, after: str) -> None:
    """Before the dealing the polynomial is lost, so it aborts; later everything goes on."""
    waited_for = {"planned": "epoch/plan", "dealt": "epoch/prepare", "committed": "epoch/commit"}[after]

    async def work(hub: Any) -> None:
        await enrol_all(hub)
        creating = create(hub, hub.charter("payroll", *NAMES))
        members = Members(hub)
        for kind in ("epoch/plan", "epoch/prepare", "epoch/commit"):
            await hub.fleet.until(kind, 3)
            if kind == waited_for:
                break
            members.answer_all(kind)
        await hub.fleet.settle()
        (row,) = await hub.database.attempts()
        assert row.phase == after
        creating.cancel()
        for running in hub.epochs._running.values():
            if running.wake is not None:
                running.wake.cancel()

        restarted = Epochs(
            hub.hsm, hub.fleet, hub.enrolments._journal, hub.database, hub.nodes, hub.committed.append
        )
        members = Members(hub, restarted)
        members.taken = len(hub.fleet.posted)
        await restarted.load()
        for name in NAMES:
            restarted.node_changed(NodeId(name))
        await hub.fleet.settle()
        while members.answer_all("epoch/prepare", "epoch/commit"):
            await hub.fleet.settle()
        assert not restarted._running
        (row,) = await hub.database.attempts()
        assert row.phase == ("aborted" if after == "planned" else "closed")
        held = [epoch["state"] for name in NAMES for epoch in hub.modules[name].epochs()]
        assert held == ([] if after == "planned" else ["current"] * 3)

    with_hub(work)


def test_committee_needs_live_holders_that_the_charter_allows(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        charter = hub.charter("payroll", *NAMES)
        with pytest.raises(BadInput, match="does not allow x, y"):
            await create(hub, charter, only=["a", "y", "x"])
        with pytest.raises(NotEnoughHolders, match="3 shards need a live holder each, and 2 of 2"):
            await create(hub, charter, only=["a", "b"])
        hub.now = 5.0  # nobody was heard of for five seconds
        with pytest.raises(NotEnoughHolders):
            await create(hub, charter)
        assert await hub.database.attempts() == []
        assert not hub.fleet.of_kind("epoch/plan")

    with_hub(work)


def test_n92_threshold_below_the_charters_floor_is_refused(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        charter = hub.operator.charter(
            domain="payroll", allowed=[(name, "holder") for name in NAMES], threshold_floor=3,
            mode="reconstruct", dealer="hub", uses_per_epoch=10, rate_per_second=10, burst=10,
            lease_seconds=30, lease_uses=10,
        )  # fmt: skip
        with pytest.raises(_core.CoreError):
            await create(hub, charter)
        with pytest.raises(_core.CoreError):  # and the domain is not stuck as "being created"
            await create(hub, charter)
        assert await hub.database.attempts() == []

    with_hub(work)
