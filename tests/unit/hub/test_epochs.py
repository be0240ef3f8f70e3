"""A domain's first epoch with real modules: to its commit, refused, cut short, and one at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.hub.members import NAMES, TWO_OF_THREE, Members, create, enrol_all

from quorate import _core
from quorate.errors import BadInput
from quorate.host.dispatch import Dropped
from quorate.hub.changes import Changes, DomainExists, NotEnoughHolders
from quorate.hub.epochs import EpochAborted, Epochs
from quorate.ids import DomainId, NodeId
from quorate.store.database import Database

Run = Callable[[Any], None]


def test_domain_is_committed_and_every_member_holds_its_shard(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        creating = create(hub, hub.charter("payroll", *NAMES))
        await Members(hub).run_until(creating)
        domain, steps = await creating
        assert (domain.epoch, domain.threshold, [index for index, _ in domain.shards]) == (1, 2, [1, 2, 3])
        assert [step["step"] for step in steps] == [
            "planned", "keys", "dealt", "prepared", "committed", "activated",
        ]  # fmt: skip
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
        assert caught.value.culprits == (), "whom a member blames is not proven"
        assert {to.value for to, _ in hub.fleet.of_kind("epoch/abort")} == set(NAMES)
        await hub.fleet.settle()
        assert DomainId("payroll") not in hub.epochs.domains

        members = Members(hub, hub.epochs)
        again = create(hub, charter)
        await members.run_until(again)
        assert (await again)[0].epoch == 2
        await hub.fleet.settle()
        assert [(row.epoch, row.phase) for row in await hub.database.attempts()] == [(2, "closed")]

    with_hub(work)


def test_keys_that_another_node_sends_do_not_count(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        creating = create(hub, hub.charter("payroll", *NAMES))
        plans = await hub.fleet.until("epoch/plan", 3)
        plan, charter = plans[0][1]
        assert hub.epochs.creating == [
            {
                "name": "payroll", "mode": "reconstruct", "threshold": 2, "shards": 3, "epoch": 0, "live": 0,
                "margin": -2, "erasure_debt": 0, "state": "creating",
            }
        ]  # fmt: skip
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
        await restarted.load()
        for name in NAMES:
            restarted.node_changed(NodeId(name), None)
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


# A database that is older than the fleet.


async def with_an_older_database(hub: Any, domain: str = "payroll") -> tuple[Epochs, bytes]:
    """The domain is committed; then the hub's part as it starts with an empty database. Also the configuration."""
    await enrol_all(hub)
    for name in NAMES:
        hub.heartbeat(name, sequence=1 << 30)
    charter = hub.charter(domain, *NAMES)
    await hub.records.add(charter, by="operator")
    creating = create(hub, charter)
    await Members(hub).run_until(creating)
    await creating
    await hub.fleet.settle()
    (held,) = hub.modules["a"].epochs()
    older = await Database.open(hub.directory / "older.db", hub.operator.fleet)
    hub.olders.append(older)
    journal = hub.enrolments._journal
    return Epochs(hub.hsm, hub.fleet, journal, older, hub.nodes, hub.committed.append), held["statement"]


def test_an_epoch_whose_certificate_is_shown_is_adopted_and_survives_a_restart(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        epochs, configuration = await with_an_older_database(hub)
        await epochs.load()
        before = len(hub.committed)
        _, receipts, dealings = hub.modules["a"].commit_certificate("payroll")
        await epochs._on_current(NodeId("a"), [configuration, receipts[:1], []])
        await epochs._on_current(NodeId("a"), [configuration, receipts[:1] * 3, []])
        assert DomainId("payroll") not in epochs.domains, "one member is no proof"
        await epochs._on_current(NodeId("a"), [configuration, receipts, dealings])
        adopted = epochs.domains[DomainId("payroll")]
        assert adopted == replace(hub.epochs.domains[DomainId("payroll")], at=adopted.at)
        (row,) = await hub.olders[0].attempts()
        assert _core.decode(row.receipts) == receipts
        assert _core.decode(row.dealings) == dealings, "one that missed the epoch is shown them"
        assert hub.committed[before:] == [adopted]
        await epochs._on_current(NodeId("b"), [configuration, [], []])
        assert hub.committed[before:] == [adopted], "once"
        assert "epoch" in hub.audited()

        again = Epochs(
            hub.hsm, hub.fleet, hub.enrolments._journal, hub.olders[0], hub.nodes, hub.committed.append
        )
        await again.load()
        assert again.domains[DomainId("payroll")] == adopted
        with pytest.raises(DomainExists):
            Changes(again, hub.olders[0], hub.nodes).check_creation(
                hub.charter("payroll", *NAMES), TWO_OF_THREE, None
            )

    with_hub(work)


def test_what_is_shown_before_the_database_is_read_counts_afterwards(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        epochs, configuration = await with_an_older_database(hub)
        for name in ("a", "b"):
            await epochs._on_current(NodeId(name), [configuration, [], []])
        assert not epochs.domains
        await epochs.load()
        assert DomainId("payroll") in epochs.domains, "k indices have shown it"

    with_hub(work)


def test_what_the_database_knows_is_not_adopted_again(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        _, configuration = await with_an_older_database(hub)
        (before,) = await hub.database.attempts()
        committed = list(hub.committed)
        for name in NAMES:
            await hub.epochs._on_current(NodeId(name), [configuration, [], []])
        assert await hub.database.attempts() == [before]
        assert hub.committed == committed

    with_hub(work)


def test_a_configuration_that_the_hub_did_not_sign_is_not_counted(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        epochs, configuration = await with_an_older_database(hub)
        await epochs.load()
        forged = bytearray(configuration)
        forged[-1] ^= 1
        (held,) = hub.modules["a"].epochs()
        receipt = hub.modules["a"].prepare(held["statement"], [], [])[0]
        for name in NAMES:
            with pytest.raises(_core.CoreError):
                await epochs._on_current(NodeId(name), [bytes(forged), [], []])
            with pytest.raises(Dropped):
                await epochs._on_current(NodeId(name), [receipt, [], []])
        for stranger in ("hub", "nobody"):  # who holds no index of it
            await epochs._on_current(NodeId(stranger), [configuration, [], []])
        await epochs._on_current(NodeId("a"), [configuration, [], []])
        assert not epochs.domains

    with_hub(work)
