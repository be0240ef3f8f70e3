"""A domain's first epoch with real modules: to its commit, refused, cut short, and one at a time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from quorate import _core
from quorate.errors import BadInput
from quorate.hub.epochs import DomainExists, EpochAborted, Epochs, NotEnoughHolders
from quorate.ids import DomainId, NodeId, Quorum

Run = Callable[[Any], None]
NAMES = ("a", "b", "c")
TWO_OF_THREE = Quorum(2, 3)


class Members:
    """Does what nodes do with the messages of an epoch change."""

    def __init__(self, hub: Any, epochs: Epochs | None = None) -> None:
        self.hub = hub
        self.epochs: Any = epochs or hub.epochs
        self.taken = 0

    def answer_all(self, *kinds: str) -> int:
        """Answers what was posted since; returns how many messages were of these kinds."""
        fresh, self.taken = self.hub.fleet.posted[self.taken :], len(self.hub.fleet.posted)
        wanted = [message for message in fresh if message[1] in kinds]
        for to, kind, fields in wanted:
            self._answer(to, kind, fields)
        return len(wanted)

    def _answer(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        module = self.hub.modules[to.value]
        match kind:
            case "epoch/plan":
                keys = module.accept_plan(*fields)
                self.epochs._on_keys(to, [_core.view(fields[0])["hash"], keys])
            case "epoch/prepare":
                configuration, dealings, sealed = fields
                parts = [(index, position, part) for index, position, part in sealed]
                self.epochs._on_prepared(to, [module.prepare(configuration, dealings, parts)])
            case "epoch/commit":
                self.epochs._on_activated(to, [module.activate(*fields)])

    async def run_until(self, finished: Any) -> None:
        """Answers everything until the future is done."""
        while not finished.done():
            self.hub.fleet.news.clear()
            if not self.answer_all("epoch/plan", "epoch/prepare", "epoch/commit"):
                news = asyncio.ensure_future(self.hub.fleet.news.wait())
                await asyncio.wait([news, finished], return_when=asyncio.FIRST_COMPLETED)
                news.cancel()


async def enrol_all(hub: Any) -> None:
    for name in NAMES:
        await hub.enrol(name)
    for name in NAMES:
        hub.modules[name].install_roster(hub.hub.roster())
        hub.heartbeat(name)


def create(hub: Any, charter: bytes, **more: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(hub.epochs.create(charter, TWO_OF_THREE, only=more.get("only")))


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
        with pytest.raises(NotEnoughHolders, match="2 of 3 needs a node for each shard, and 2 of 2 holders"):
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
