"""The hub process: opens the module, puts the parts together, and runs until it is told to stop.

Here: the only place of the hub that opens a running module; start, clockwork, stop, what ends the process.
Not here: what the parts do.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quorate import _core, logs
from quorate.audit.append import AuditLog
from quorate.errors import BadInput, QuorateError, in_full
from quorate.host import process
from quorate.host.certificates import Renewal
from quorate.host.dispatch import Dispatch, Fields
from quorate.host.fleet import Fleet
from quorate.host.log_level import LogLevel
from quorate.host.run_state import RunState
from quorate.host.watchdog import Watchdog
from quorate.hsm import Hsm
from quorate.hub.admin import AdminServer
from quorate.hub.changes import Changes
from quorate.hub.directory import Directory, Settings
from quorate.hub.enrolment import Enrolments
from quorate.hub.epochs import Domain, Epochs
from quorate.hub.fleet_key import FleetKeys
from quorate.hub.journal import MAX_REASON, Journal
from quorate.hub.nodes import QUARANTINED, Domains, Nodes
from quorate.hub.nodes import Node as KnownNode
from quorate.hub.records import Records
from quorate.hub.rotation import Rotations
from quorate.hub.sessions import Sessions
from quorate.ids import HUB, DomainId, NodeId, Quorum
from quorate.protocol import session_events as session
from quorate.store.database import Database
from quorate.wire.enrol import EnrolmentDoor
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
LOCK_SECONDS = 1.0
"""How long a lock waits for nodes to say that they dropped their leases."""


async def serve(
    data: Path,
    *,
    log: Path | None = None,
    log_format: logs.Format = logs.Format.TEXT,
    log_level: logs.Level = logs.Level.INFO,
    passphrase_file: Path | None = None,
) -> int:
    """Runs the hub until SIGTERM or SIGINT; returns the process's exit code (1: module, database or audit log
    failed).

    Needs uvloop. `log`: a file to log to, rotated; else stderr. Raises `BadInput`, `PortInUse`, `StorageFailed`
    or `CoreError` when it cannot start.
    """
    logs.set_up(log, process=HUB.value, form=log_format, level=log_level)
    logs.take_failures(asyncio.get_running_loop())
    locked = process.prepare()
    directory = Directory.of(data)
    settings = directory.read_settings()
    hsm = Hsm(_core.Module.open(directory.module, passphrase_file=passphrase_file))
    audit: AuditLog | None = None
    database: Database | None = None
    try:
        module = hsm.module
        if directory.certificates.renew_when_due(module, settings.tls_names, time.time()):
            _log.info("the TLS certificate was renewed")
        audit = AuditLog(directory.audit_log, now=lambda: datetime.now(UTC))
        fleet = module.fleet
        if fleet is None:
            raise BadInput("this module belongs to no fleet", remedy="run `quorate hub init` again")
        if not directory.database.exists():
            raise BadInput(
                f"the hub's database {directory.database} is missing",
                remedy="restore it from a backup (`quorate hub restore FILE`); without one, see docs/operations.md",
            )
        database = await Database.open(directory.database, fleet)
        # The vault knows of every start, an old copy of the database does not.
        term = await database.raise_term(at_least=module.boot)
        level = LogLevel(directory.path, log_level)
        return await Hub(directory, settings, hsm, audit, database, term, level, locked).run()
    finally:
        if database is not None:
            await database.close()
        if audit is not None:
            audit.close()
        hsm.close()


class Hub:
    """The parts of the running hub."""

    def __init__(
        self,
        directory: Directory,
        settings: Settings,
        hsm: Hsm,
        audit: AuditLog,
        database: Database,
        term: int,
        level: LogLevel,
        memory_locked: bool,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._hsm = hsm
        self._audit = audit
        self._database = database
        self._term = term
        self._run_state = RunState(directory.run_state)
        self._log_level = level
        self._memory_locked = memory_locked
        self._watchdog = Watchdog()
        self._stop = asyncio.Event()
        self._ready = False
        self._failed = False
        self._info = hsm.module.verify(directory.fleet_info.read_bytes())
        self._ready_of: dict[NodeId, frozenset[DomainId]] = {}
        self._locks: dict[tuple[DomainId, NodeId], set[asyncio.Future[None]]] = {}

        self._journal = journal = Journal(audit)
        self._nodes = Nodes(time.monotonic, self._on_node, self._ask_again)
        dispatch = Dispatch()
        self._fleet = Fleet(
            hsm,
            directory.certificates.files,
            dispatch,
            on_greeted=self._on_greeted,
            on_lost=self._nodes.lost,
            on_behind=self._on_behind,
            on_rolled_back=self._on_rolled_back,
        )
        self._sessions = Sessions(hsm, self._fleet, journal, term)
        self._epochs = Epochs(hsm, self._fleet, journal, database, self._nodes, self._on_commit)
        self._changes = Changes(self._epochs, database, self._nodes)
        self._records = Records(hsm, self._fleet, journal, database, self._nodes, time.time)
        self._rotations = Rotations(
            hsm, self._fleet, journal, database, self._nodes, self._epochs, self._records, self._on_dropped
        )
        self._fleet_keys = FleetKeys(
            hsm, self._fleet, journal, database, self._nodes, self._records, time.time
        )
        self._enrolments = Enrolments(
            hsm,
            journal,
            database,
            directory.fleet_info,
            on_roster=self._on_roster,
            on_stranger=lambda code, reason: dispatch.drop(code, HUB, "enrolment", reason),
        )
        self._door = EnrolmentDoor(
            directory.certificates.files,
            self._enrolments.answer,
            on_refused=lambda reason: dispatch.drop("connection", HUB, "enrolment", reason),
        )
        self._admin = AdminServer(self, directory.admin_socket)
        self._renewal = Renewal(
            directory.certificates, hsm.module, settings.tls_names, time.time, self._take_up_certificate
        )
        parts = (self._nodes, self._sessions, self._epochs, self._records, self._rotations, self._fleet_keys)
        for part in parts:
            part.register(dispatch)
        dispatch.on("domain/locked", 2, self._on_locked, hub_only=False)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._write_state()
        module = self._hsm.module
        await self._journal.note(
            "started",
            version=_core.build_info()["version"],
            boot=module.boot,
            generation=module.generation,
            term=self._term,
        )
        stopping = loop.create_task(self._stop.wait())
        ticking: asyncio.Task[None] | None = None
        try:
            await self._records.load()
            self._nodes.use_roster(module.entries())
            await self._rotations.load()
            await self._fleet_keys.load()
            # Before anybody connects: what nodes show of epochs is mostly known then, and needs no second look.
            await self._epochs.load()
            await self._changes.load()
            await self._fleet.start(self._settings.fleet)
            await self._door.start(self._settings.enrol.host, self._settings.enrol.port)
            await self._admin.start()
            self._ready = True
            self._write_state()
            _log.info(
                "the hub serves: fleet on %s, enrolment on %s", self._settings.fleet, self._settings.enrol
            )
            self._watchdog.start()
            ticking = loop.create_task(self._tick())
            ends: list[asyncio.Future[Any]] = [stopping, ticking, self._audit.failed, self._database.failed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return self._verdict(ticking)
        finally:
            self._watchdog.stop()  # whatever stalls now, the process is to end
            stopping.cancel()
            if ticking is not None:
                ticking.cancel()
            await self._admin.stop()
            await self._changes.close()
            await self._rotations.close()
            await self._door.close()
            await self._fleet.close()
            if not self._failed:
                self._run_state.remove()

    def _verdict(self, ticking: asyncio.Task[None]) -> int:
        """The exit code, and the line that explains it."""
        if self._audit.failed.done():
            _log.critical("stopping: %s", in_full(self._audit.failed.result()))
        elif self._database.failed.done():
            _log.critical("stopping: %s", in_full(self._database.failed.result()))
        elif self._hsm.module.failed:
            _log.critical("stopping: the module's vault failed: %s", self._hsm.module.failure)
        elif ticking.done():
            if isinstance(why := ticking.exception(), QuorateError):
                raise why
            _log.critical("stopping: the hub's own clockwork failed", exc_info=why)
        else:
            _log.info("stopping")
            return 0
        self._failed = True
        return 1

    async def _tick(self) -> None:
        """Returns when the module has failed."""
        ticks = 0
        while not self._hsm.module.failed:
            self._watchdog.tick()
            self._nodes.tick()
            ticks += 1
            if ticks % 3 == 0:
                self._changes.tick()
                self._rotations.tick()
                self._fleet_keys.tick()
                self._fleet.tick()
                self._renewal.tick()
                if self._log_level.look():
                    self._write_state()
            await asyncio.sleep(TICK_SECONDS)

    def _take_up_certificate(self) -> None:
        self._fleet.take_up_certificate()
        self._door.take_up_certificate()

    def _write_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "state": "ready" if self._ready else "starting",
            "memory_locked": self._memory_locked,
            "fleet_port": self._settings.fleet.port,
            "enrol_port": self._settings.enrol.port,
            "version": _core.build_info()["version"],
            "log_level": self._log_level.current,
            "log_level_configured": self._log_level.configured,
        }
        try:
            self._run_state.write(state)
        except OSError as why:
            _log.warning("run.json could not be written: %s", why)

    # Who comes and goes.

    def _on_greeted(self, node: NodeId) -> None:
        _log.info("%s is connected", node)
        self._nodes.greeted(node)
        self._send_roster(node)

    def _on_behind(self, node: NodeId, why: str) -> None:
        """Nothing of it is heard until it has taken the proof, which it is shown besides."""
        if node not in self._nodes.behind:
            _log.error("%s is quarantined: %s", node, why)
            self._fleet.spawn(self._journal.note("quarantined", node=node.value, reason=why))
        self._nodes.behind[node] = why

    def _on_rolled_back(self, later: bytes) -> None:
        seen = _core.view(later)
        _log.critical(
            "the hub was started from an older copy of its module: it had come to start %d and generation %d before; "
            "what it has forgotten it learns from its database and its nodes (docs/runbooks/rolled-back-node.md)",
            seen["boot"],
            seen["generation"],
        )
        self._fleet.spawn(self._journal.note("rolled_back", boot=seen["boot"], generation=seen["generation"]))

    def _on_node(self, node: NodeId, domains: Domains) -> None:
        known = self._nodes.known[node]
        if self._nodes.is_live(node):
            ready = self._ready_in(node, domains)
            self._sessions.feed(session.NodeUp(node, self._nodes.zone(node), known.open_sessions, ready))
        else:
            self._sessions.feed(session.NodeDown(node))
        self._epochs.node_changed(node, domains)
        self._records.node_changed(node)

    def _ready_in(self, node: NodeId, domains: Domains) -> frozenset[DomainId]:
        """The domains whose current epoch the node holds; `domains`: where that may have changed."""
        held, known = self._nodes.known[node].epochs, self._epochs.domains
        before = frozenset() if domains is None else self._ready_of.get(node, frozenset())
        looked_at = known.keys() if domains is None else domains & known.keys()
        if looked_at or domains is None:
            now = {
                name for name in looked_at if held.get(name) == (known[name].epoch, known[name].configuration)
            }
            self._ready_of[node] = (before - looked_at) | now
        return self._ready_of.get(node, frozenset())

    def _ask_again(self, node: NodeId) -> None:
        with contextlib.suppress(LinkDown, _core.CoreError):
            self._fleet.post(node, "node/again")

    def _on_commit(self, domain: Domain) -> None:
        self._sessions.feed(domain.event)
        for node in self._nodes.live:
            self._on_node(node, {domain.domain})

    def _on_dropped(self, _sharing: DomainId) -> None:
        """Nobody is ready for sessions of it any more."""
        for node in self._nodes.live:
            self._on_node(node, None)

    def _on_roster(self) -> None:
        self._nodes.use_roster(self._hsm.module.entries())
        self._fleet.use_roster()
        for node in self._fleet.up:
            self._send_roster(node)

    def _send_roster(self, node: NodeId) -> None:
        roster = self._hsm.module.roster()
        with contextlib.suppress(LinkDown, _core.CoreError):
            self._fleet.post(node, "fleet/roster", self._directory.fleet_info.read_bytes(), roster)

    def _on_locked(self, sender: NodeId, fields: Fields) -> None:
        for waiting in self._locks.pop((DomainId(fields[0]), sender), ()):
            if not waiting.done():
                waiting.set_result(None)

    # What the admin API asks (`admin.HubCommands`).

    def status(self) -> dict[str, Any]:
        return {
            "fleet": {
                "id": self._info["fleet"].hex(),
                "region": self._info["region"],
                "account": self._info["account"],
                "fleet_key": self._fleet_keys.status(),
            },
            "hub": {
                "pid": os.getpid(),
                "state": "ready",
                "term": self._term,
                "messages": self._hsm.module.opened_versions(),
            },
            "nodes": [self._node_status(entry) for entry in self._hsm.module.entries()],
            "domains": [
                *(self._domain_status(name) for name in sorted({d.base for d in self._epochs.domains})),
                *self._epochs.creating,
            ],
        }

    def _node_status(self, entry: dict[str, Any]) -> dict[str, Any]:
        name = NodeId(entry["name"])
        known = self._nodes.known.get(name)
        live = name == HUB or self._nodes.is_live(name)
        return {
            "name": name.value,
            "role": entry["role"],
            "standing": entry["standing"],
            "entry": entry["statement"],
            "zone": entry["zone"],
            "address": entry["address"],
            "state": _state(name, entry["standing"], known if live else None, name in self._nodes.behind),
            "reason": self._nodes.reason(name),
            "live": live,
            "kms": known is not None and live and known.kms,
            "convicted": self._epochs.disputes.convicted.get(name),
            "message_version": self._hsm.module.peer_version(name.value),
        }

    def _domain_status(self, base: DomainId) -> dict[str, Any]:
        """Of all its key versions together: what serves is the newest one's, what is owed that of each."""
        settlings, versions = self._epochs.settlings, self._epochs.versions(base)
        domain = self._epochs.domains[versions[-1]]
        name, rotation = domain.domain, self._rotations.under_way(base)
        changes = [*versions, *([base.at_version(rotation["to"])] if rotation else [])]
        live, shards = self._sessions.live(name), len(domain.shards)
        state = "unavailable" if live < domain.threshold else "ready" if live == shards else "degraded"
        debts = settlings.debts(name)
        return {
            "name": base.value,
            "mode": domain.mode,
            "threshold": domain.threshold,
            "shards": shards,
            "key_version": name.key_version,
            "epoch": domain.epoch,
            "live": live,
            "margin": live - domain.threshold,
            "erasure_debt": sum(max(settlings.debts(each).values(), default=0) for each in versions),
            "state": state,
            "age_seconds": max(0, int(time.time()) - domain.at),
            "refresh_every": self._changes.refresh_every(name),
            "next_refresh": self._changes.next_refresh(domain),
            "rotate_every": self._rotations.every(base),
            "next_rotation": self._rotations.next_rotation(base),
            "rotation": rotation,
            "lagging": _names(settlings.lagging(each) for each in versions),
            "without": _names(settlings.without(each) for each in versions),
            "waits_for": _names(settlings.waits_for(each) for each in versions),
            "earlier": [
                {
                    "epoch": each.epoch,
                    "not_erased": debts[each.epoch],
                    "retired": debts[each.epoch] < each.threshold,
                }
                for each in reversed(settlings.earlier(name))
            ],
            "change": next((c for each in changes if (c := self._epochs.under_way(each))), None),
            "members": [{"index": index, "node": node.value} for index, node in domain.shards],
        }

    def fleet(self) -> dict[str, Any]:
        module = self._hsm.module
        own = next(entry for entry in module.entries() if entry["name"] == HUB.value)
        return {
            "info": self._directory.fleet_info.read_bytes(),
            "operator": self._info["operator"],
            "entry": own["statement"],
            "roster": module.roster(),
        }

    async def add_token(self, token: bytes) -> dict[str, Any]:
        return {"id": (await self._enrolments.add_token(token)).hex()}

    async def enrolments(self) -> list[dict[str, Any]]:
        found = []
        for enrolment in await self._database.enrolments():
            seen = _core.view(enrolment.request)
            found.append(
                {
                    "name": enrolment.node,
                    "zone": seen["zone"],
                    "role": seen["role"],
                    "fingerprint": enrolment.fingerprint.hex(),
                    "request": enrolment.request,
                    "since": enrolment.since,
                    "state": "pending" if enrolment.entry is None else "enrolled",
                }
            )
        return found

    async def rotate_key(self, window: int) -> dict[str, Any]:
        return await self._fleet_keys.rotate(window)

    async def approve(self, name: str, entry: bytes, authority: bytes) -> dict[str, Any]:
        self._fleet_keys.check_enrolment()
        return {"roster_version": await self._enrolments.approve(name, entry, authority)}

    async def retire(self, name: str, entry: bytes) -> dict[str, Any]:
        return {"roster_version": await self._enrolments.retire(name, entry)}

    async def pardon(self, name: str) -> dict[str, Any]:
        """Takes a convicted node back into changes; it had better be mended, or be another."""
        return {"pardoned": await self._epochs.disputes.pardon(NodeId(name))}

    async def create_domain(
        self, charter: bytes, quorum: Quorum, nodes: list[str] | None, refresh_every: int | None
    ) -> dict[str, Any]:
        self._changes.check_creation(charter, quorum, nodes)  # before the charter is on record
        await self._records.add(charter, by="operator")
        made = await self._changes.create(charter, quorum, only=nodes, refresh_every=refresh_every)
        return self._changed([made])

    async def refresh(self, domain: str) -> dict[str, Any]:
        """Of each key version that there is."""
        names = self._changes.changeable(DomainId.named(domain))
        return self._changed([await self._changes.refresh(name) for name in names])

    async def rotate(self, domain: str) -> dict[str, Any]:
        """Returns when the new key is shared; tokens are wrapped anew after that."""
        name = DomainId.named(domain)
        await self._rotations.rotate(name)
        return self._domain_status(name)

    async def reshare(
        self, domain: str, charter: bytes | None, quorum: Quorum, nodes: list[str] | None
    ) -> dict[str, Any]:
        name = DomainId.named(domain)
        self._changes.newest(name)
        self._rotations.refuse_while_sharing(name)
        if charter is not None:
            await self._records.add(charter, by="operator")
        names = self._changes.changeable(name)
        return self._changed([await self._changes.reshare(each, quorum, only=nodes) for each in names])

    def _changed(self, made: list[tuple[Domain, list[dict[str, Any]]]]) -> dict[str, Any]:
        steps = [step for _, steps in made for step in steps]
        return {**self._domain_status(made[-1][0].domain.base), "steps": steps}

    async def abort(self, domain: str, reason: str) -> dict[str, Any]:
        """An epoch change of any key version, or a rotation whose new key is not shared yet."""
        name, why = DomainId.named(domain), f"the operator: {reason[:MAX_REASON]}"
        aborted = await self._rotations.abandon(name, why)
        for each in (*self._epochs.versions(name), name):
            aborted = await self._epochs.cancel(each, why) or aborted
        return {"aborted": aborted}

    async def set_domain(
        self, domain: str, refresh_every: int | None, rotate_every: int | None
    ) -> dict[str, Any]:
        name = DomainId.named(domain)
        self._changes.newest(name)
        if refresh_every is not None:
            await self._journal.note("set", domain=domain, refresh_every=refresh_every)
            await self._changes.set_refresh_every(name, refresh_every)
        if rotate_every is not None:
            await self._journal.note("set", domain=domain, rotate_every=rotate_every)
            await self._rotations.set_every(name, rotate_every)
        return self._domain_status(name)

    def charter(self, domain: str) -> dict[str, Any]:
        return {"charter": self._epochs.charter(DomainId(domain))}

    async def lock(self, domain: str) -> dict[str, Any]:
        """Drops every lease of the domain now; nodes that cannot be reached lose theirs by time."""
        name = DomainId.named(domain)
        self._changes.newest(name)
        await self._journal.note("lock", domain=domain)
        versions = [self._epochs.domains[each] for each in self._epochs.versions(name)]
        members = sorted({node for version in versions for _, node in version.shards})
        loop = asyncio.get_running_loop()
        waiting = {node: loop.create_future() for node in members}
        for node in members:
            self._locks.setdefault((name, node), set()).add(waiting[node])
            try:
                self._fleet.post(node, "domain/lock", domain)
            except (LinkDown, _core.CoreError):
                waiting[node].cancel()
        await asyncio.wait(waiting.values(), timeout=LOCK_SECONDS)
        for node, done in waiting.items():  # who did not answer
            self._locks.get((name, node), set()).discard(done)
        locked = [node.value for node, done in waiting.items() if done.done() and not done.cancelled()]
        return {"locked": locked, "unreached": [node.value for node in members if node.value not in locked]}

    async def access(self) -> list[dict[str, Any]]:
        found = []
        for record in await self._database.newest("access"):
            seen = _core.view_approved(record.statement)
            found.append(
                {
                    name: seen[name]
                    for name in ("access_key_id", "user", "role", "enabled", "created", "version")
                }
                | {"statement": record.statement}
            )
        return found

    async def reseal(self, access_key_id: str, sealed: bytes) -> dict[str, Any]:
        module = self._hsm.module
        return {"sealed": await self._hsm.slow(module.reseal_access_secret, access_key_id, sealed)}

    async def put_access(self, statement: bytes) -> dict[str, Any]:
        seen = _core.view_approved(statement)
        await self._records.add(statement, by="operator")
        return {"access_key_id": seen["access_key_id"], "version": seen["version"]}

    def sessions(self, limit: int) -> list[dict[str, Any]]:
        return self._sessions.last(limit)


def _names(sets: Iterable[Iterable[NodeId]]) -> list[str]:
    return sorted({node.value for nodes in sets for node in nodes})


def _state(name: NodeId, standing: str, known: KnownNode | None, behind: bool) -> str:
    """`known`: what the node said, if it is live; `behind`: it is not heard, for its vault is an older copy."""
    if standing == "retired":
        return "retired"
    if name == HUB:
        return "ready"
    if behind:
        return QUARANTINED
    return "down" if known is None else known.state
