"""The node process: opens the module, puts the parts together, and runs until it is told to stop.

Here: the only place of the node that opens a running module; start, heartbeat, stop, and what ends the
process.
Not here: what the parts do.
"""

import asyncio
import logging
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quorate import _core, logs
from quorate.audit.append import AuditLog
from quorate.errors import BadInput, QuorateError, in_full
from quorate.host import process
from quorate.host.certificates import Renewal
from quorate.host.dispatch import Dispatch, Fields
from quorate.host.files import replace_file
from quorate.host.fleet import Fleet
from quorate.host.log_level import LogLevel
from quorate.host.run_state import RunState
from quorate.host.watchdog import Watchdog
from quorate.hsm import Hsm
from quorate.ids import HUB, DomainId, NodeId
from quorate.kms.app import KmsApp
from quorate.kms.operation import Settings as KmsSettings
from quorate.node.backend import Checker, NodeBackend
from quorate.node.directory import Directory, Settings
from quorate.node.epochs import Epochs
from quorate.node.fleet_key import FleetKeys
from quorate.node.forward import Forwarder
from quorate.node.holder import Holder
from quorate.node.journal import Journal
from quorate.node.kms import KmsServer
from quorate.node.records import Records
from quorate.node.rotation import Rotations
from quorate.node.sessions import Sessions
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.25
_SYNC_SECONDS = 1.0
"""How long the KMS port waits for the hub's records before it opens with those that are here."""
_SHOW_SECONDS = 1.0
"""From one look at the domains for run.json to the next, at least."""
_CORRUPT = "QUORATE_TESTING_CORRUPT_ANSWERS"


async def serve(
    data: Path,
    name: str,
    *,
    log: Path | None = None,
    log_format: logs.Format = logs.Format.TEXT,
    log_level: logs.Level = logs.Level.INFO,
    passphrase_file: Path | None = None,
) -> int:
    """Runs node `name` until SIGTERM or SIGINT; returns the exit code (1: module or audit log failed).

    Needs uvloop. `log`: a file to log to, rotated; else stderr. Raises `BadInput`, `PortInUse`,
    `StorageFailed` or `CoreError` when it cannot start.
    """
    logs.set_up(log, process=name, form=log_format, level=log_level)
    logs.take_failures(asyncio.get_running_loop())
    locked = process.prepare()
    directory = Directory.of(data, name)
    settings = directory.read_settings()
    if not directory.is_enrolled:
        raise BadInput(f"{name} is not enrolled", remedy=f"run `quorate node enroll {name}` first")
    module = _core.Module.open(directory.module, passphrase_file=passphrase_file)
    hsm = Hsm(module)
    audit: AuditLog | None = None
    try:
        _obey_testing(module)
        if directory.certificates.renew_when_due(module, settings.tls_names, time.time()):
            _log.info("the TLS certificate was renewed")
        audit = AuditLog(directory.audit_log, now=lambda: datetime.now(UTC))
        return await Node(directory, settings, hsm, audit, LogLevel(directory.path, log_level), locked).run()
    finally:
        if audit is not None:
            audit.close()
        hsm.close()


def _obey_testing(module: _core.Module) -> None:
    """A build for tests can give wrong shards on purpose; any other refuses to be asked."""
    if os.environ.get(_CORRUPT, "") in ("", "0"):
        return
    if not _core.build_info()["testing"]:
        raise BadInput(
            f"{_CORRUPT} is set, but this build cannot corrupt its answers",
            remedy="unset it, or run a build with the core's `testing` feature",
        )
    module.corrupt_answers(True)
    _log.warning("every answer of this node carries a corrupted shard (%s)", _CORRUPT)


class Node:
    """The parts of one running node."""

    def __init__(
        self,
        directory: Directory,
        settings: Settings,
        hsm: Hsm,
        audit: AuditLog,
        level: LogLevel,
        memory_locked: bool,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._hsm = hsm
        self._audit = audit
        self._run_state = RunState(directory.run_state)
        self._log_level = level
        self._memory_locked = memory_locked
        self._watchdog = Watchdog()
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._failed = False
        self._hub_boot: int | None = None
        self._started = time.monotonic()
        self._shown: list[dict[str, Any]] = []
        self._shown_at = float("-inf")
        module = hsm.module
        self._info = module.verify(directory.fleet_info.read_bytes())

        dispatch = Dispatch()
        self._fleet = Fleet(
            hsm,
            directory.tls,
            dispatch,
            on_greeted=self._on_greeted,
            on_lost=self._on_lost,
            on_behind=lambda peer, why: _log.error("%s is not heard: %s", peer, why),
            on_rolled_back=self._on_rolled_back,
        )
        self._journal = Journal(audit, self._fleet.spawn)
        self._epochs = Epochs(hsm, self._fleet, self._journal, self._on_epoch, self._changed.set)
        self._sessions = Sessions(hsm, self._fleet, self._journal, self._changed.set)
        self._holder = Holder(hsm, self._fleet, self._journal, self._sessions.granted, self._epochs.used)
        self._records = Records(hsm, self._fleet, self._changed.set)
        fleet_keys = FleetKeys(hsm, self._fleet, self._journal, self._records.retry_refused)
        backend = NodeBackend(module, self._sessions, self._records, self._epochs, self._journal, time.time)
        kms = KmsSettings(self._info["region"], self._info["account"])
        app = KmsApp(backend, Checker(module), kms, time.time)
        backend.forwarder = Forwarder(self._fleet, backend.members, app.handle)
        self._kms = KmsServer(app, directory.tls)
        self._renewal = Renewal(
            directory.certificates, module, settings.tls_names, time.time, self._take_up_certificate
        )

        rotations = Rotations(
            hsm,
            self._fleet,
            self._journal,
            self._sessions,
            self._records,
            self._epochs,
            self._changed.set,
        )
        for part in (
            self._holder,
            self._epochs,
            self._sessions,
            self._records,
            rotations,
            fleet_keys,
            backend.forwarder,
        ):
            part.register(dispatch)
        dispatch.on("fleet/roster", 2, self._on_roster, queued=True)
        dispatch.on("domain/lock", 1, self._on_lock)
        dispatch.on("node/again", 0, self._on_again)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._write_state()
        self._watchdog.start()
        module = self._hsm.module
        self._journal.started(_core.build_info()["version"], module.boot, module.generation)
        stopping = loop.create_task(self._stop.wait())
        beating: asyncio.Task[None] | None = None
        try:
            await self._fleet.start(self._settings.fleet)
            beating = loop.create_task(self._beat())
            ends: list[asyncio.Future[Any]] = [stopping, beating, self._audit.failed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return self._verdict(beating)
        finally:
            module.drop_uses()  # calls under way that need more than they have are refused; others serve them
            self._watchdog.stop()  # whatever stalls now, the process is to end
            stopping.cancel()
            if beating is not None:
                beating.cancel()
            await self._kms.stop()
            await self._fleet.close()
            if not self._failed:
                self._run_state.remove()

    def _verdict(self, beating: asyncio.Task[None]) -> int:
        """The exit code, and the line that explains it."""
        if self._audit.failed.done():
            _log.critical("stopping: %s", in_full(self._audit.failed.result()))
        elif self._hsm.module.failed:
            _log.critical("stopping: the module's vault failed: %s", self._hsm.module.failure)
        elif beating.done():
            if isinstance(why := beating.exception(), QuorateError):
                raise why
            _log.critical("stopping: the node's own clockwork failed", exc_info=why)
        else:
            _log.info("stopping")
            return 0
        self._failed = True
        return 1

    # The clockwork.

    async def _beat(self) -> None:
        """Every quarter of a second, and at once on a change; returns when the module has failed."""
        while not self._hsm.module.failed:
            self._watchdog.tick()
            self._log_level.look()
            self._renewal.tick()
            self._fleet.tick()
            if self._epochs.barred:
                await self._kms.stop()
            elif not self._kms.listening and self._may_listen():
                await self._kms.start(self._settings.kms)
                _log.info("serving the KMS API on %s", self._settings.kms)
            self._write_state()
            self._send_heartbeat()
            self._changed.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _take_up_certificate(self) -> None:
        self._kms.take_up_certificate()
        self._fleet.take_up_certificate()

    def _may_listen(self) -> bool:
        """The port is shared: a node that has not seen the hub's records would refuse what others serve."""
        if self._hsm.module.roster() is None or self._hsm.module.role != "holder":
            return False
        return self._records.sequence > 0 or time.monotonic() - self._started > _SYNC_SECONDS

    def _on_epoch(self, domain: DomainId) -> None:
        self._changed.set()
        self._sessions.epoch_changed(domain)
        # A key may have been wrapped under a key version that was not known here yet.
        self._fleet.spawn(self._records.retry_refused())

    @property
    def _state(self) -> str:
        if self._epochs.barred:
            return "quarantined"
        return "ready" if self._kms.listening or self._hsm.module.role not in (None, "holder") else "starting"

    def _send_heartbeat(self) -> None:
        if not self._fleet.is_up(HUB):
            return
        module = self._hsm.module
        try:
            self._fleet.post(
                HUB,
                "node/heartbeat",
                self._state,
                self._kms.listening,
                time.time_ns() // 1_000_000,
                self._holder.open_sessions + self._sessions.open_sessions,
                self._records.sequence,
                module.generation,
                *self._epochs.news(),
            )
        except (LinkDown, _core.CoreError) as why:
            self._epochs.tell_all()
            _log.debug("no heartbeat: %s", why)

    def _domains(self) -> list[dict[str, Any]]:
        """There may be a thousand: looked at no more often than people do."""
        now = time.monotonic()
        if now < self._shown_at + _SHOW_SECONDS:
            return self._shown
        self._shown, self._shown_at = [], now
        for current in self._epochs.newest.values():
            lease = self._hsm.module.lease(current.domain.value)
            self._shown.append(
                {
                    "name": current.domain.base.value,
                    "key_version": current.domain.key_version,
                    "epoch": current.epoch.value,
                    "lease_seconds": None if lease is None else lease["seconds_left"],
                }
            )
        return self._shown

    def _write_state(self) -> None:
        module = self._hsm.module
        state = {
            "pid": os.getpid(),
            "name": self._settings.name,
            "role": module.role,
            "zone": self._settings.zone,
            "state": self._state,
            "fleet_port": self._settings.fleet.port,
            "memory_locked": self._memory_locked,
            "kms": str(self._settings.kms) if self._kms.listening else None,
            "hub": self._fleet.is_up(HUB),
            "messages": module.opened_versions(),
            "log_level": self._log_level.current,
            "log_level_configured": self._log_level.configured,
            "domains": self._domains(),
        }
        try:
            self._run_state.write(state)
        except OSError as why:  # a full disk is no reason to stop serving
            _log.warning("run.json could not be written: %s", why)

    # Who comes and goes, and what the hub orders.

    def _on_greeted(self, peer: NodeId) -> None:
        _log.info("%s is connected", peer)
        if peer == HUB:
            self._epochs.tell_all()
            boot = self._hsm.module.peer_boot(HUB.value)
            if boot != self._hub_boot:
                self._hub_boot = boot
                self._records.begin_again()
            self._epochs.show()  # each time: what was shown last may have gone down with the connection
            self._changed.set()

    def _on_lost(self, peer: NodeId) -> None:
        _log.info("%s is not connected any more", peer)
        if peer == HUB:
            self._sessions.hub_lost()
            self._changed.set()

    def _on_rolled_back(self, later: bytes) -> None:
        """The module has barred its shares and erased its leases; other members serve until new epochs are made."""
        seen = _core.view(later)
        _log.critical(
            "this node was started from an older copy of its vault: it had come to start %d and generation %d before; "
            "its shards are barred until their domains' next epochs (docs/runbooks/rolled-back-node.md)",
            seen["boot"],
            seen["generation"],
        )
        self._journal.rolled_back(seen["boot"], seen["generation"])
        self._epochs.refresh()
        self._sessions.forget_leases()
        self._changed.set()

    async def _on_roster(self, _sender: NodeId, fields: Fields) -> None:
        info, roster = fields
        module = self._hsm.module
        module.verify(info)
        await self._hsm.slow(module.install_roster, roster)
        if info != self._directory.fleet_info.read_bytes():
            replace_file(self._directory.fleet_info, info)
        self._fleet.use_roster()
        await self._records.retry_refused()
        self._changed.set()

    def _on_again(self, _sender: NodeId, _fields: Fields) -> None:
        """The hub has not heard of what the last heartbeat went on from."""
        self._epochs.tell_all()
        self._changed.set()

    def _on_lock(self, _sender: NodeId, fields: Fields) -> None:
        domain = DomainId.named(fields[0])
        had_lease = self._hsm.module.lock(domain.value)
        for name in self._epochs.current:
            if name.base == domain:
                self._sessions.forget_lease(name)
        self._journal.locked(domain, had_lease)
        self._fleet.post(HUB, "domain/locked", domain.value, had_lease)
        self._changed.set()
