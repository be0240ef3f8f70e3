"""Rotations at a hub over real modules: carried through, taken up again in each phase, refused."""

import asyncio
import contextlib
from typing import Any

import pytest
from tests.unit.hub.conftest import EVERYTHING
from tests.unit.hub.members import NAMES, Members, with_domain

from quorate import _core
from quorate.host.dispatch import Dropped
from quorate.hub.changes import Changes
from quorate.hub.epochs import EpochAborted, Epochs
from quorate.hub.journal import Journal
from quorate.hub.records import RecordRefused, Records
from quorate.hub.rotation import RotationRunning, Rotations
from quorate.ids import DomainId, NodeId
from quorate.protocol.key_rotation import Phase

PAYROLL = DomainId("payroll")
SECOND = DomainId("payroll.2")
KEYS = [b"%016d" % number for number in range(3)]


class Rotating(Members):
    """Members that wrap anew, compare and drop as well. `finds`: who finds one token wrong, once, and by whom."""

    def __init__(self, hub: Any) -> None:
        super().__init__(hub)
        self.taken = len(hub.fleet.posted)
        self.fence = 100
        self.finds: dict[str, str] = {}
        self.journal = Journal(hub.audit)
        self.dropped: list[DomainId] = []
        hub.nodes.use_roster(hub.hub.entries())
        self.start()

    def start(self) -> None:
        """The hub as it is after a restart: what the database and its module hold, and nothing else."""
        hub: Any = self.hub
        self.records = Records(hub.hsm, hub.fleet, self.journal, hub.database, hub.nodes, lambda: hub.wall)
        self.epochs = Epochs(hub.hsm, hub.fleet, self.journal, hub.database, hub.nodes, lambda _: None)
        self.changes = Changes(self.epochs, hub.database, hub.nodes)
        self.rotations = Rotations(
            hub.hsm,
            hub.fleet,
            self.journal,
            hub.database,
            hub.nodes,
            self.epochs,
            self.records,
            self.dropped.append,
        )

    async def load(self) -> None:
        await self.records.load()
        await self.rotations.load()
        await self.epochs.load()

    async def restart(self) -> None:
        self.start()
        await self.load()

    def heartbeats(self) -> None:
        for name in self.hub.modules:
            if name not in self.away:
                self.hub.heartbeat(name, sequence=EVERYTHING)
            self.epochs.node_changed(NodeId(name), None)

    async def go_on(self, until: Phase | None = None) -> None:
        """The clockwork, until the rotation is over, or in this phase."""
        while (under_way := self.rotations.under_way(PAYROLL)) is not None:
            if until is not None and under_way["phase"] == until:
                return
            self.heartbeats()
            self.rotations.tick()
            await self.settle()
            await asyncio.sleep(0)

    async def rotate(self) -> None:
        rotating = asyncio.ensure_future(self.rotations.rotate(PAYROLL))
        await self.run_until(rotating)
        await self.settle()
        await rotating

    def unlock(self, name: str, sharing: str) -> None:
        """A lease, by the shards of the first two that are there."""
        module = self.hub.modules[name]
        _, request = module.open_session(sharing)
        self.fence += 1
        holders = [(index, node) for index, node in enumerate(NAMES, start=1) if node not in self.away][:2]
        grant = self.hub.hub.grant(request, [(i, node, (1, self.fence)) for i, node in holders])
        progress: Any = {}
        for _, node in holders:
            for _, answer, _ in self.hub.modules[node].answer(grant)["given"]:
                progress = module.receive(answer)
        for _, node in holders:
            self.hub.modules[node].close_session(progress["closed"])

    def unlock_all(self, name: str, to: int) -> None:
        for version in (to - 1, to):
            self.unlock(name, PAYROLL.at_version(version).value)

    async def make_keys(self, sharing: str = "payroll") -> None:
        self.heartbeats()
        self.unlock("a", sharing)
        for key in KEYS:
            made = self.hub.modules["a"].make_key(
                key_id=key, domain="payroll", description="", tags=[], created=1
            )
            await self.records.add(made, by="a")
        await self.settle()

    def _answer(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        if kind == "record/sync":
            self.hub.modules[to.value].learn(fields[2])
        elif kind.startswith("key/"):
            self.hub.fleet.spawn(self._rotation_step(to, kind, fields))
        else:
            super()._answer(to, kind, fields)

    async def _rotation_step(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        with contextlib.suppress(Dropped, RecordRefused):  # asked again, an answer may come too late
            await self._rotation(to, kind, fields)

    async def _rotation(self, to: NodeId, kind: str, fields: tuple[Any, ...]) -> None:
        module = self.hub.modules[to.value]
        match kind:
            case "key/rewrap":
                domain, version, keys = fields
                self.unlock_all(to.value, version)
                done = []
                for key in keys:
                    done.append(key)
                    with contextlib.suppress(_core.CoreError):  # it is wrapped anew already
                        await self.records.add(module.rewrap_key(key), by=to.value)
                self.rotations._on_rewrapped(to, [domain, version, done, "ok", ""])
            case "key/check":
                domain, version = fields
                self.unlock_all(to.value, version + 1)
                unchecked = module.unchecked_keys(domain)
                if (culprit := self.finds.pop(to.value, None)) is not None:
                    refusal = [domain, version, "wrong_material", "", [culprit], unchecked[:1]]
                    await self.rotations._on_refused(to, refusal)
                    return
                for key in unchecked:
                    module.check_rewrapped(key)
                self.rotations._on_clean(to, [module.clean(domain, version)])
            case "key/drop":
                await self.rotations._on_dropped_came(to, [module.drop_version(fields[0])])


async def rotating(hub: Any) -> Rotating:
    """Three members of payroll, three keys, nothing rotated yet."""
    await with_domain(hub)
    members = Rotating(hub)
    await members.load()
    await members.make_keys()
    return members


def sharings(members: Rotating, name: str) -> list[str]:
    return [each["domain"] for each in members.hub.modules[name].epochs()]


def under(members: Rotating, name: str) -> set[int]:
    """The key versions that a module's keys are under."""
    records = [_core.view(record) for record in members.hub.modules[name].records("key")]
    return {_core.token_key_version(seen["token"]) for seen in records}


def test_a_rotation_is_carried_through_and_leaves_one_version(with_hub: Any) -> None:
    async def work(hub: Any) -> None:
        members = await rotating(hub)
        await members.rotate()
        await members.go_on()
        for name in NAMES:
            assert (sharings(members, name), under(members, name)) == (["payroll.2"], {2})
        assert list(members.epochs.domains) == [SECOND]
        assert members.dropped == [PAYROLL]
        assert [(row.version, row.phase) for row in await hub.database.rotations()] == [(2, "done")]
        assert await hub.database.drops() == {"payroll": dict.fromkeys(NAMES, 1)}
        assert hub.audited().count("rotation") == len([p for p in Phase if p is not Phase.ABANDONED])
        assert hub.audited().count("dropped") == 3
        # After a restart it is still so, and the next one begins from there.
        await members.restart()
        assert (list(members.epochs.domains), members.rotations.under_way(PAYROLL)) == ([SECOND], None)
        members.heartbeats()
        await members.rotate()
        await members.go_on()
        assert {version for name in NAMES for version in under(members, name)} == {3}

    with_hub(work)


@pytest.mark.parametrize(
    ("lost", "phase"),
    [
        ("epoch/plan", Phase.SHARING),
        ("epoch/prepare", Phase.SHARING),
        ("key/rewrap", Phase.REWRAPPING),
        ("key/check", Phase.CHECKING),
        ("key/drop", Phase.DROPPING),
    ],
)
def test_a_hub_that_starts_again_takes_a_rotation_up_in_its_phase(
    with_hub: Any, monkeypatch: pytest.MonkeyPatch, lost: str, phase: Phase
) -> None:
    monkeypatch.setattr("quorate.protocol.key_rotation.AGAIN_SECONDS", 0.0)

    async def work(hub: Any) -> None:
        members = await rotating(hub)
        members.lost = {lost}
        asked = asyncio.ensure_future(members.rotations.rotate(PAYROLL))
        if phase is Phase.SHARING:
            posted = asyncio.ensure_future(hub.fleet.until(lost, 6))
            await members.run_until(posted)
        else:
            await members.run_until(asked)
            await asked
            await members.go_on(phase)
        (row,) = await hub.database.rotations()
        assert row.phase == phase
        stopped = members.epochs
        await members.restart()
        members.lost = set()
        members.heartbeats()
        await members.go_on()
        for name in NAMES:
            assert (sharings(members, name), under(members, name)) == (["payroll.2"], {2})
        for running in stopped._running.values():
            if running.wake is not None:
                running.wake.cancel()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    with_hub(work)


def test_a_rotation_whose_key_is_not_shared_is_given_up_and_can_be_begun_again(with_hub: Any) -> None:
    async def work(hub: Any) -> None:
        members = await rotating(hub)
        members.leave("c")
        with pytest.raises(EpochAborted, match="c cannot be reached"):
            await members.rotations.rotate(PAYROLL)
        assert members.rotations.under_way(PAYROLL) is None
        assert [(row.version, row.phase) for row in await hub.database.rotations()] == [(2, "abandoned")]
        members.away.clear()
        await members.restart()
        assert members.rotations.under_way(PAYROLL) is None
        members.heartbeats()
        await members.rotate()
        await members.go_on()
        assert list(members.epochs.domains) == [SECOND]

    with_hub(work)


def test_one_rotation_at_a_time_and_no_other_committee_while_its_key_is_shared(with_hub: Any) -> None:
    async def work(hub: Any) -> None:
        members = await rotating(hub)
        members.lost = {"epoch/plan"}
        asked = asyncio.ensure_future(members.rotations.rotate(PAYROLL))
        await members.run_until(asyncio.ensure_future(hub.fleet.until("epoch/plan", 6)))
        with pytest.raises(RotationRunning):
            members.rotations.refuse_while_sharing(PAYROLL)
        with pytest.raises(RotationRunning):
            await members.rotations.rotate(PAYROLL)
        assert await members.rotations.abandon(PAYROLL, "the operator")
        with pytest.raises(EpochAborted, match="the operator"):
            await asked
        members.lost = {"key/rewrap"}
        await members.settle()
        await members.rotate()
        members.rotations.refuse_while_sharing(PAYROLL)
        with pytest.raises(RotationRunning):
            await members.rotations.rotate(PAYROLL)
        assert not await members.rotations.abandon(PAYROLL, "too late")
        shown = members.rotations.under_way(PAYROLL)
        assert shown is not None
        assert (shown["phase"], shown["to"], shown["keys"], shown["rewrapped"]) == ("rewrapping", 2, 3, 0)

    with_hub(work)


def test_a_wrong_token_is_an_alarm_and_another_member_wraps_the_key_anew(
    with_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quorate.protocol.key_rotation.AGAIN_SECONDS", 0.0)

    async def work(hub: Any) -> None:
        members = await rotating(hub)
        members.finds = {"c": "a"}
        await members.rotate()
        await members.go_on()
        assert hub.audited().count("wrong-material") == 1
        asked = [to.value for to, _ in hub.fleet.of_kind("key/rewrap")]
        assert asked == ["a", "b"], "not the one who is to blame"
        assert list(members.epochs.domains) == [SECOND]

    with_hub(work)


def test_no_record_is_ordered_whose_token_is_under_a_version_that_goes_or_does_not_exist(
    with_hub: Any,
) -> None:
    async def work(hub: Any) -> None:
        members = await rotating(hub)
        a = hub.modules["a"]

        def make(number: int) -> bytes:
            made: bytes = a.make_key(
                key_id=b"%016d" % number, domain="payroll", description="", tags=[], created=1
            )
            return made

        old = make(10)
        early = make(11)
        members.lost = {"key/rewrap"}
        await members.rotate()
        await members.records.add(early, by="a")  # still fine: it is wrapped anew like the others
        members.lost = {"key/check"}
        members.rotations._on_rewrapped(NodeId("a"), ["payroll", 2, [], "ok", ""])
        await members.go_on(Phase.CHECKING)
        with pytest.raises(RecordRefused, match="key version 1"):
            await members.records.add(old, by="a")
        members.unlock("a", "payroll.2")
        late = make(12)
        await members.records.add(late, by="a")
        members.records.versions = lambda _domain: (1, 1)
        with pytest.raises(RecordRefused, match="key version 2"):
            await members.records.add(make(13), by="a")
        # What keeps its token is no matter of this.
        await members.records.add(a.revise_key(KEYS[0], state="disabled", deletion=None), by="a")

    with_hub(work)


def test_a_rotation_begins_when_it_is_due(with_hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(hub: Any) -> None:
        members = await rotating(hub)
        members.heartbeats()
        members.rotations.tick()
        assert members.rotations.under_way(PAYROLL) is None
        await members.rotations.set_every(PAYROLL, 3600)
        await members.restart()
        assert members.rotations.every(PAYROLL) == 3600
        due = members.rotations.next_rotation(PAYROLL)
        assert due == members.epochs.since[PAYROLL] + 3600
        monkeypatch.setattr("quorate.hub.rotation.time.time", lambda: float(due - 1))
        members.rotations.tick()
        assert members.rotations.under_way(PAYROLL) is None
        monkeypatch.setattr("quorate.hub.rotation.time.time", lambda: float(due))
        members.heartbeats()
        members.rotations.tick()
        assert members.rotations.under_way(PAYROLL) is not None
        await members.go_on()
        assert list(members.epochs.domains) == [SECOND]
        monkeypatch.undo()

    with_hub(work)


def test_a_hub_with_an_older_database_finishes_a_rotation_that_its_members_show(
    with_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quorate.protocol.key_rotation.AGAIN_SECONDS", 0.0)

    async def work(hub: Any) -> None:
        members = await rotating(hub)
        members.lost = {"key/check"}
        await members.rotate()
        await members.go_on(Phase.CHECKING)
        members.lost = set()
        # As if the database were of before: neither the new version's epoch nor the rotation is in it.
        async with hub.database._writing() as connection:
            await connection.exec_driver_sql("DELETE FROM attempts WHERE domain = 'payroll.2'")
            await connection.exec_driver_sql("DELETE FROM rotations")
        await members.restart()
        members.heartbeats()
        assert list(members.epochs.domains) == [PAYROLL]
        for name in NAMES:
            shown = hub.modules[name].commit_certificate("payroll.2")
            await members.epochs._on_current(NodeId(name), list(shown))
        assert set(members.epochs.domains) == {PAYROLL, SECOND}
        members.heartbeats()
        members.rotations.tick()
        await members.go_on()
        for name in NAMES:
            assert sharings(members, name) == ["payroll.2"]

    with_hub(work)
