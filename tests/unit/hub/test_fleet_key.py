"""Rotation of the fleet key by the hub, over real modules: whole, cut short in every phase, and what refuses it."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete
from tests.unit.hub.members import NAMES, create_and_lease, enrol_all

from quorate import _core
from quorate.errors import BadInput
from quorate.hub import fleet_key as driver
from quorate.hub.fleet_key import MAX_WINDOW, FleetKeyBusy, FleetKeys
from quorate.hub.journal import Journal
from quorate.ids import NodeId
from quorate.protocol import fleet_key as protocol
from quorate.store.schema import fleet_receipts, fleet_rotations

Run = Callable[[Any], None]
KEYS = [bytes([n]) * 16 for n in range(1, 4)]
PHASES = ["distributing", "renewing", "window", "retiring"]


@pytest.fixture(autouse=True)
def _ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(driver, "MIN_WINDOW", 0)


class Nodes:
    """Does what nodes do with the messages of a rotation; nothing comes to those in `away`."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.away: set[str] = set()
        self.taken = 0
        self.keys = self.driver()

    def driver(self) -> FleetKeys:
        """The hub's part, as it is made at a start."""
        hub = self.hub
        return FleetKeys(
            hub.hsm, hub.fleet, Journal(hub.audit), hub.database, hub.nodes, hub.records, lambda: hub.wall
        )

    async def restart(self) -> None:
        await self.hub.fleet.settle()
        self.taken = len(self.hub.fleet.posted)  # what was on its way is lost
        self.keys = self.driver()
        await self.keys.load()

    async def turn(self) -> str:
        """One look, and the answers to what it asked; the phase then."""
        self.keys.tick()
        for task in list(self.hub.fleet.tasks):
            while not task.done() and await self._answer() is not None:
                pass
        await self.hub.fleet.settle()
        await self._answer()
        await self.hub.fleet.settle()
        return str(self.keys.status()["phase"])

    async def until(self, phase: str) -> None:
        for _ in range(100):
            if await self.turn() == phase:
                return
        raise AssertionError(f"it is still {self.keys.status()}")

    async def _answer(self) -> int | None:
        """Answers what was posted since, after those who work had their turn."""
        import asyncio

        await asyncio.sleep(0)
        fresh, self.taken = self.hub.fleet.posted[self.taken :], len(self.hub.fleet.posted)
        for to, kind, fields in fresh:
            if to.value not in self.away:
                try:
                    await self._carry_out(to, kind, fields)
                except _core.CoreError as why:
                    if why.code != "bad_state":  # it is asked again
                        raise
        return len(fresh)

    async def _carry_out(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        module = self.hub.modules[to.value]
        match kind:
            case "fleet/rekey":
                module.accept_rekey(fields[0], window=fields[1])
                for missed in ("key", "seal"):  # records that had come before it
                    module.learn(self.hub.hub.records(missed))
                await self.keys._on_kept(to, [module.fleet_key_kept()])
            case "fleet/renew":
                renewed = [module.renew_outer(key) for key in fields[0]]
                deleted = [module.revise_key(key, state="deleted", deletion=None) for key in fields[1]]
                self.keys._on_renewed(to, [renewed + deleted])
            case "fleet/retire":
                await self.keys._on_retired(to, [module.retire_fleet_key(fields[0])])
            case "record/sync":
                module.learn(fields[2])

    def fleet_keys(self) -> dict[str, tuple[int, int | None]]:
        modules = {**self.hub.modules, "hub": self.hub.hub}
        states = {name: module.fleet_key() for name, module in modules.items()}
        return {name: (state["epoch"], state["previous"]) for name, state in states.items()}


async def in_use(hub: Any) -> Nodes:
    """Three nodes with a domain, three keys, and an access key, which all modules know."""
    await create_and_lease(hub, "payroll")
    hub.fleet.posted.clear()
    a = hub.modules["a"]
    records = [a.make_key(key_id=key, domain="payroll", description="", tags=[], created=1) for key in KEYS]
    entry = next(e["statement"] for e in hub.hub.entries() if e["name"] == "hub")
    key_id, secret, to_hub = hub.operator.new_access_secret(entry)
    records.append(
        hub.operator.access_key(
            access_key_id=key_id,
            user="u",
            role="user",
            enabled=True,
            created=1,
            sealed=hub.hub.reseal_access_secret(key_id, to_hub),
            secret=secret,
        )
    )
    for record in records:
        await hub.records.add(record, by="a")
    charter = hub.hub.records("charter") or [hub.charter("payroll", *NAMES)]
    for name in NAMES:
        assert set(hub.modules[name].learn([*charter, *records])) <= {"new", "known"}
    nodes = Nodes(hub)
    nodes.taken = len(hub.fleet.posted)
    await nodes.keys.load()
    return nodes


def test_a_rotation_renews_everything_and_erases_the_old_key(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        begun = await nodes.keys.rotate(60)
        assert (begun["epoch"], begun["phase"], begun["waits_for"]) == (2, "distributing", ["a", "b", "c"])
        assert (begun["renewed"], begun["keys"], begun["access_left"]) == (0, 3, 1)
        await nodes.until("window")
        status = nodes.keys.status()
        assert (status["renewed"], status["access_left"], status["waits_for"]) == (3, 0, [])
        assert set(nodes.fleet_keys().values()) == {(2, 1)}
        hub.wall += 60
        await nodes.until("done")
        assert set(nodes.fleet_keys().values()) == {(2, None)}
        assert hub.audited().count("fleet_key_erased") == 4
        assert [r.kind for r in await hub.database.newest("seal")] == ["seal"]
        # The next one may begin.
        assert (await nodes.keys.rotate(0))["epoch"] == 3
        await nodes.until("done")
        assert set(nodes.fleet_keys().values()) == {(3, None)}

    with_hub(work)


@pytest.mark.parametrize("phase", PHASES)
def test_a_rotation_goes_on_after_a_crash_in_every_phase(with_hub: Run, phase: str) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        nodes.away.add("c")  # so that every phase has something left to do
        await nodes.keys.rotate(60)
        if phase != "distributing":
            hub.nodes.lost(NodeId("c"))
            hub.wall += 60 * (phase == "retiring")
            await nodes.until(phase)
        else:
            await nodes.turn()
        await nodes.restart()
        assert nodes.keys.status()["phase"] == phase
        nodes.away.clear()
        hub.heartbeat("c", sequence=1 << 30)
        hub.wall += 60
        await nodes.until("done")
        assert set(nodes.fleet_keys().values()) == {(2, None)}

    with_hub(work)


def test_receipts_from_before_a_crash_count_after_it(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        await nodes.keys.rotate(60)
        await nodes.until("renewing")
        await nodes.restart()
        assert nodes.keys.status()["waits_for"] == []
        assert len(nodes.keys._certificate()) == 4

    with_hub(work)


def test_a_crash_before_the_key_was_made_makes_it_at_the_next_start(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        await hub.database.put_fleet_rotation(2, "distributing", int(hub.wall))
        await nodes.restart()
        assert hub.hub.fleet_key()["epoch"] == 2
        await nodes.until("done")

    with_hub(work)


def test_a_database_that_lost_the_rotation_learns_of_it_from_the_module(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        hub.hub.rotate_fleet_key(window=60)
        await nodes.restart()
        assert nodes.keys.status()["phase"] == "distributing"
        await nodes.until("done")
        assert set(nodes.fleet_keys().values()) == {(2, None)}

    with_hub(work)


def test_a_database_that_lost_the_rotation_has_what_is_left_of_it_erased_too(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        hub.nodes.lost(NodeId("c"))
        nodes.away.add("c")
        await nodes.keys.rotate(0)
        await nodes.until("retiring")
        while hub.hub.fleet_key()["previous"] is not None:
            await nodes.turn()
        async with hub.database._writing() as connection:
            for table in (fleet_rotations, fleet_receipts):
                await connection.execute(delete(table))
        await nodes.restart()
        nodes.away.clear()
        hub.heartbeat("c", sequence=1 << 30)
        await nodes.until("done")
        assert set(nodes.fleet_keys().values()) == {(2, None)}

    with_hub(work)


def test_n67_no_other_rotation_begins_while_a_node_may_have_the_old_key(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        hub.nodes.lost(NodeId("c"))
        nodes.away.add("c")
        await nodes.keys.rotate(0)
        await nodes.until("retiring")
        for _ in range(5):
            await nodes.turn()
        status = nodes.keys.status()
        assert (status["phase"], status["waits_for"], status["away"]) == ("retiring", ["c"], ["c"])
        with pytest.raises(FleetKeyBusy, match="waits for c"):
            await nodes.keys.rotate(0)
        assert nodes.fleet_keys() == {"a": (2, None), "b": (2, None), "c": (1, None), "hub": (2, None)}
        nodes.away.clear()
        hub.heartbeat("c", sequence=1 << 30)
        await nodes.until("done")
        assert nodes.fleet_keys()["c"] == (2, None)

    with_hub(work)


def test_a_key_whose_deletion_date_has_come_is_deleted_and_not_renewed(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        deletion = int((hub.wall + 10) * 1000)
        pending = hub.modules["a"].revise_key(KEYS[0], state="pending-deletion", deletion=deletion)
        await hub.records.add(pending, by="a")
        for name in NAMES:
            hub.modules[name].learn([pending])
        hub.wall += 11
        await nodes.keys.rotate(0)
        await nodes.until("done")
        assert _core.view((await hub.database.current("key", _name(KEYS[0]))).statement)["state"] == "deleted"
        assert nodes.keys.status()["keys"] == 2

    with_hub(work)


def test_a_change_of_a_key_that_comes_first_is_renewed_after_it(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        await nodes.keys.rotate(0)
        await nodes.until("renewing")
        changed = hub.modules["b"].revise_key(KEYS[1], state="disabled", deletion=None)
        await hub.records.add(changed, by="b")  # no node has learnt it when keys are renewed
        await nodes.until("done")
        newest = _core.view((await hub.database.current("key", _name(KEYS[1]))).statement)
        assert (newest["state"], newest["version"]) == ("disabled", 3)

    with_hub(work)


def test_nobody_joins_before_everything_is_renewed(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        nodes.keys.check_enrolment()
        await nodes.keys.rotate(60)
        with pytest.raises(FleetKeyBusy):
            nodes.keys.check_enrolment()
        await nodes.until("window")
        nodes.keys.check_enrolment()

    with_hub(work)


def test_n67_a_window_has_an_end(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        await enrol_all(hub)
        for window in (-1, MAX_WINDOW + 1):
            with pytest.raises(BadInput):
                await Nodes(hub).keys.rotate(window)
        assert hub.hub.fleet_key()["epoch"] == 1

    with_hub(work)


def test_a_receipt_counts_for_who_signed_it(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        nodes = await in_use(hub)
        await nodes.keys.rotate(60)
        a = hub.modules["a"]
        a.accept_rekey(hub.hub.rekey_for("a"))
        kept = a.fleet_key_kept()
        with pytest.raises(ValueError, match="another statement"):
            await nodes.keys._on_kept(NodeId("b"), [kept])
        with pytest.raises(ValueError, match="another statement"):
            await nodes.keys._on_retired(NodeId("a"), [kept])
        assert nodes.keys.status()["waits_for"] == ["a", "b", "c"]
        for _ in range(2):
            await nodes.keys._on_kept(NodeId("a"), [kept])
        assert nodes.keys.status()["waits_for"] == ["b", "c"]

    with_hub(work)


def _name(key: bytes) -> str:
    from uuid import UUID

    return str(UUID(bytes=key))


def commitment(access_key_id: str, secret: bytes) -> bytes:
    """What the operator signs, by the words of docs/protocols/fleet-key.md."""
    inner = _core.encode([access_key_id, secret])
    return hashlib.sha256(_core.encode(["quorate/v1/access/commitment", inner])).digest()


def test_an_access_key_commits_to_its_secret(with_hub: Run) -> None:
    async def work(hub: Any) -> None:
        entry = next(e["statement"] for e in hub.hub.entries() if e["name"] == "hub")
        key_id, secret, to_hub = hub.operator.new_access_secret(entry)
        _, _, committed = _core.decode(hub.hub.reseal_access_secret(key_id, to_hub))
        assert committed == commitment(key_id, secret.encode())

    with_hub(work)
