"""A hub's parts over real modules and a real database, with a fleet that only remembers what was posted."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quorate import _core
from quorate.audit.append import AuditLog
from quorate.hsm import Hsm
from quorate.hub import epochs as epoch_changes
from quorate.hub.changes import Changes
from quorate.hub.enrolment import Enrolments
from quorate.hub.epochs import Domain, Epochs
from quorate.hub.journal import Journal
from quorate.hub.nodes import Domains, Nodes
from quorate.hub.records import Records
from quorate.ids import HUB, NodeId
from quorate.store.database import Database

NOW = int(time.time())
ADDRESS = "127.0.0.1:7001"
EVERYTHING = 1 << 30
"""The record sequence of a node for which no result waits."""


class FakeFleet:
    """Everybody is connected; `posted` holds (to, kind, fields)."""

    def __init__(self) -> None:
        self.up: set[NodeId] = set()
        self.posted: list[tuple[NodeId, str, tuple[Any, ...]]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.news = asyncio.Event()

    def post(self, to: NodeId, kind: str, *fields: object) -> None:
        self.posted.append((to, kind, fields))
        self.news.set()

    def greet_all(self) -> None:
        """Nobody listens for hellos here."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)

    def of_kind(self, kind: str) -> list[tuple[NodeId, tuple[Any, ...]]]:
        return [(to, fields) for to, sent, fields in self.posted if sent == kind]

    async def until(self, kind: str, count: int) -> list[tuple[NodeId, tuple[Any, ...]]]:
        """The first messages of a kind, once there are `count`."""
        while len(found := self.of_kind(kind)) < count:
            self.news.clear()
            await self.news.wait()
        return found

    async def settle(self) -> None:
        """Waits for what was spawned; raises what it raised."""
        while self.tasks:
            done, self.tasks = self.tasks, set()
            await asyncio.gather(*done)


@dataclass
class Parts:
    """One running hub without sockets, the operator, and the invitations and modules of would-be nodes."""

    directory: Path
    operator: _core.Operator
    hub: _core.Module
    database: Database
    audit: AuditLog
    hsm: Hsm
    fleet: FakeFleet
    nodes: Nodes
    records: Records
    epochs: Epochs
    changes: Changes
    enrolments: Enrolments
    modules: dict[str, _core.Module] = field(default_factory=dict)
    committed: list[Domain] = field(default_factory=list)
    rosters: int = 0
    strangers: list[str] = field(default_factory=list)
    olders: list[Database] = field(default_factory=list)
    """Further databases that a test opened."""
    now: float = 0.0
    wall: float = float(NOW)
    """The wall clock, in seconds since 1970."""

    def module(self, name: str, file: str = "") -> _core.Module:
        """A module by this name; `file` tells two with the same name apart."""
        made = _core.Module.create(self.directory / (file or name), name)
        self.modules[file or name] = made
        return made

    async def invite(self, name: str, *, expires: int = NOW + 3600, **more: Any) -> str:
        token, invitation = self.operator.invite(
            name=name, role="holder", zone=f"zone-{name}", enrol_address=ADDRESS, expires=expires, **more
        )
        await self.enrolments.add_token(token)
        return invitation

    async def enrol(self, name: str) -> _core.Module:
        """A node that is enrolled, live and in possession of the fleet key."""
        module = self.module(name)
        request = module.enrol_request(await self.invite(name), address=ADDRESS)
        await self.ask(request)
        entry, authority = self.operator.approve_entry(request, not_before=NOW - 60)
        await self.enrolments.approve(name, entry, authority)
        _, _, _, info, roster, rekey = await self.ask(request)
        module.verify(info)
        module.install_roster(roster)
        module.accept_rekey(rekey)
        self.heartbeat(name, sequence=EVERYTHING)
        return module

    async def ask(self, request: bytes) -> list[Any]:
        answer: list[Any] = _core.decode(await self.enrolments.answer(_core.encode(["enrol", request])))
        return answer

    def heartbeat(self, name: str, *, sequence: int = 0) -> None:
        """It is live, and says which epochs it is in."""
        node = NodeId(name)
        self.fleet.up.add(node)
        self.nodes.greeted(node)
        listed = self.modules[name].epochs() if name in self.modules else []
        idle: dict[str, list[int]] = {}
        for each in listed:
            if each["state"] == "retired" or (each["barred"] and each["state"] == "current"):
                idle.setdefault(each["domain"], []).append(each["epoch"])
        rows: list[Any] = []
        current = [each for each in listed if each["state"] == "current"]
        for each in current:
            serves = each["indices"] and not each["barred"]
            here = each["configuration"] if serves else b""
            rows.append([each["domain"], each["epoch"], here, idle.get(each["domain"], []), each["worn"]])
        state = "quarantined" if any(each["barred"] for each in current) else "ready"
        self.nodes._on_heartbeat(node, [state, True, 0, 0, sequence, 1, 0, 1, rows])

    def charter(self, domain: str, *names: str, uses: int = 1000) -> bytes:
        return self.operator.charter(
            domain=domain,
            allowed=[(name, "holder") for name in names],
            threshold_floor=2,
            mode="reconstruct",
            dealer="hub",
            uses_per_epoch=uses,
            rate_per_second=100,
            burst=100,
            lease_seconds=30,
            lease_uses=1000,
        )

    def audited(self) -> list[str]:
        """What the log's lines are about, in order."""
        lines = (self.directory / "audit.log").read_text().splitlines()
        return [line.partition('"event":{"event":"')[2].partition('"')[0] for line in lines]


Work = Callable[[Parts], Coroutine[Any, Any, None]]


async def with_parts(directory: Path, work: Work) -> None:
    operator = _core.Operator.create(
        directory / "operator", region="us-east-1", account="000000000000", not_before=NOW - 60
    )
    hub = _core.Module.create(directory / "hub", HUB.value)
    hub.pin(operator.fleet_info, operator.public_key)
    entry, _ = operator.approve_entry(hub.enrol_request_hub(zone="hub", address=ADDRESS), not_before=NOW - 60)
    hub.found_fleet(entry)
    (directory / "fleet-info").write_bytes(operator.fleet_info)
    hsm, fleet = Hsm(hub), FakeFleet()
    any_fleet: Any = fleet
    database = await Database.open(directory / "hub.db", operator.fleet)
    audit = AuditLog(directory / "audit.log", now=lambda: datetime.now(UTC))
    journal = Journal(audit)

    def on_node(node: NodeId, domains: Domains) -> None:
        records.node_changed(node)
        epochs.node_changed(node, domains)

    def on_roster() -> None:
        parts.rosters += 1

    nodes = Nodes(lambda: parts.now, on_node, lambda node: fleet.post(node, "node/again"))
    records = Records(hsm, any_fleet, journal, database, nodes, lambda: parts.wall)
    committed: list[Domain] = []
    epochs = Epochs(hsm, any_fleet, journal, database, nodes, committed.append)
    changes = Changes(epochs, database, nodes)
    strangers: list[str] = []
    enrolments = Enrolments(
        hsm,
        journal,
        database,
        directory / "fleet-info",
        on_roster=on_roster,
        on_stranger=lambda code, _: strangers.append(code),
    )
    parts = Parts(
        directory, operator, hub, database, audit, hsm, fleet, nodes, records, epochs, changes,
        enrolments,
        committed=committed, strangers=strangers,
    )  # fmt: skip
    try:
        await records.load()
        await epochs.load()
        async with asyncio.timeout(60):  # what waits for a message that never comes fails
            await work(parts)
    finally:
        await changes.close()
        for task in fleet.tasks:
            task.cancel()
        await asyncio.gather(*fleet.tasks, return_exceptions=True)
        for running in epochs._running.values():
            if running.wake is not None:
                running.wake.cancel()
        for opened in (database, *parts.olders):
            await opened.close()
        audit.close()
        for module in parts.modules.values():
            module.close()
        hsm.close()


@pytest.fixture(autouse=True)
def _no_spacing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes follow one another at once."""
    monkeypatch.setattr(epoch_changes, "SPACING_SECONDS", 0.0)


@pytest.fixture
def with_hub(tmp_path: Path) -> Callable[[Work], None]:
    """Runs a coroutine with the parts of a fresh hub."""

    def run(work: Work) -> None:
        asyncio.run(with_parts(tmp_path, work))

    return run
