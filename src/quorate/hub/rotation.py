"""Rotations of domain keys carried out: `protocol/key_rotation` decides, members do, the database keeps the phase.

Here: the new version's sharing ordered, which keys are left, what members said, when a rotation is due by itself.
Not here: any decision; how an epoch is made (`epochs`), whether a statement is good (the modules).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from quorate import _core
from quorate.errors import BadInput, QuorateError
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.hub.epochs import Busy, Epochs, Order
from quorate.hub.journal import Journal
from quorate.hub.nodes import Nodes
from quorate.hub.records import Records
from quorate.ids import DomainId, NodeId
from quorate.protocol import key_rotation as rotation
from quorate.protocol.key_rotation import Facts, Phase
from quorate.store.database import Database
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

BACKOFF = (5.0, 300.0)
"""Seconds until a sharing in the background is tried again: at first, and at most. It doubles each time."""
_CLEAN = "quorate/v1/key/clean"
_DROPPED = "quorate/v1/key/dropped"


class RotationRunning(QuorateError):
    code = "rotation_running"

    def __init__(self, domain: DomainId, phase: Phase) -> None:
        super().__init__(
            f"a rotation of {domain}'s key is under way ({phase.value})",
            kept="it goes on",
            remedy="wait for its end (`quorate domain show`)",
        )


@dataclass(slots=True)
class _Running:
    """A rotation under way. `at`: unix seconds of its beginning."""

    domain: DomainId
    to: int
    at: int
    machine: rotation.Rotation
    asked: bool = False
    """Somebody waits for its sharing: if that fails, the rotation is given up."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """What steps do is done in their order."""
    sharing: asyncio.Task[None] | None = None
    not_before: float = 0.0
    wait: float = BACKOFF[0]

    @property
    def target(self) -> DomainId:
        return self.domain.at_version(self.to)


class Rotations:
    """`on_dropped(sharing)` is called for each key version that is gone everywhere."""

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        database: Database,
        nodes: Nodes,
        epochs: Epochs,
        records: Records,
        on_dropped: Callable[[DomainId], None],
    ) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._database = database
        self._nodes = nodes
        self._epochs = epochs
        self._records = records
        self._on_dropped = on_dropped
        self._loop = asyncio.get_running_loop()
        self._running: dict[DomainId, _Running] = {}
        self._drops: dict[DomainId, dict[NodeId, int]] = {}
        self._every: dict[DomainId, int] = {}
        records.versions = self._versions

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("key/rewrapped", 5, self._on_rewrapped, hub_only=False)
        dispatch.on("key/clean", 1, self._on_clean, hub_only=False)
        dispatch.on("key/dropped", 1, self._on_dropped_came, hub_only=False)
        dispatch.on("key/refused", 6, self._on_refused, hub_only=False)

    async def load(self) -> None:
        """Takes up what the database holds. Before the epochs are loaded: those of dropped versions are none."""
        for name, drops in (await self._database.drops()).items():
            self._drops[DomainId(name)] = {NodeId(node): version for node, version in drops.items()}
        for row in await self._database.rotations():
            domain, phase = DomainId(row.domain), Phase(row.phase)
            if phase is Phase.DONE:
                self._epochs.dropped[domain] = row.version - 1
            elif not phase.is_over:
                self._running[domain] = self._begun(domain, row.version, row.at, phase)
            if phase is Phase.DROPPING:
                self._epochs.retiring[domain] = row.version - 1
        self._every = {DomainId(name): every for name, every in (await self._database.rotate_every()).items()}

    def _begun(self, domain: DomainId, to: int, at: int, phase: Phase) -> _Running:
        nobody = Facts((), frozenset(), frozenset(), frozenset())
        return _Running(domain, to, at, rotation.Rotation(phase, nobody))

    # On request.

    async def rotate(self, domain: DomainId) -> None:
        """Begins a rotation; returns when the new version is shared. Raises `RotationRunning`, and what `Epochs.make`
        does; then there is none.
        """
        known = self._epochs.newest(domain)
        if known is None:
            raise BadInput(f"there is no domain {domain}", remedy="see `quorate domain list`")
        self._refuse_running(domain)
        if self._epochs.is_busy(known):
            raise Busy(domain)
        running = self._begun(domain, known.key_version + 1, int(time.time()), Phase.SHARING)
        running.asked = True
        self._running[domain] = running
        try:
            await self._enter(running, Phase.SHARING)
            await self._share(running)
        except BaseException:
            if running.machine.phase is Phase.SHARING:
                await asyncio.shield(self._enter(running, Phase.ABANDONED))
            raise
        finally:
            running.asked = False

    def _refuse_running(self, domain: DomainId) -> None:
        running = self._running.get(domain)
        if running is not None:
            raise RotationRunning(domain, running.machine.phase)

    def refuse_while_sharing(self, domain: DomainId) -> None:
        """For changes of the committee: a new version has the one that the old has. Raises `RotationRunning`."""
        running = self._running.get(domain)
        if running is not None and running.machine.phase is Phase.SHARING:
            raise RotationRunning(domain, running.machine.phase)

    async def abandon(self, domain: DomainId, reason: str) -> bool:
        """Gives a rotation up whose new version is not shared yet; false where there is none."""
        running = self._running.get(domain)
        if running is None or running.machine.phase is not Phase.SHARING:
            return False
        cancelled = await self._epochs.cancel(running.target, reason)
        if running.asked or running.target in self._epochs.domains:
            return cancelled  # whoever asked gives it up; what is committed stays
        await self._enter(running, Phase.ABANDONED)
        return True

    async def _share(self, running: _Running) -> None:
        """The new version's first epoch: dealt by each member of the old one's committee, for the same committee."""
        if running.target not in self._epochs.domains:
            before = self._epochs.domains[running.domain.at_version(running.to - 1)]
            charter = self._epochs.charter(running.domain)
            assert charter is not None  # the domain was made under it
            dealers = tuple((node, None) for node in sorted({node for _, node in before.shards}))
            order = Order(running.target, charter, "rotate", 0, before.threshold, dealers, before.shards)
            await self._epochs.make(order)
        await self._enter(running, Phase.REWRAPPING)
        self._feed(running, rotation.TimePassed())

    async def _share_again(self, running: _Running) -> None:
        try:
            await self._share(running)
        except (QuorateError, _core.CoreError) as why:
            running.not_before = time.monotonic() + running.wait
            running.wait = min(2 * running.wait, BACKOFF[1])
            _log.warning("the new key of %s is not shared yet: %s", running.domain, why)
        finally:
            running.sharing = None

    # By itself.

    async def set_every(self, domain: DomainId, seconds: int) -> None:
        """0: never."""
        await self._database.put_rotate_every(domain.value, seconds)
        self._every[domain] = seconds

    def every(self, domain: DomainId) -> int:
        return self._every.get(domain, 0)

    def next_rotation(self, domain: DomainId) -> int | None:
        """Unix seconds; None where there is none."""
        newest, every = self._epochs.newest(domain), self.every(domain)
        return None if newest is None or not every else self._epochs.since[newest] + every

    def tick(self) -> None:
        """Goes on with what is under way, and begins what is due. Called every second or so."""
        for domain in {name.base for name in self._epochs.domains}:
            if domain not in self._running:
                self._begin_due(domain)
        for running in list(self._running.values()):
            if running.machine.phase is not Phase.SHARING:
                self._feed(running, rotation.TimePassed())
            elif not running.asked and running.sharing is None and self._may_share(running):
                running.sharing = self._loop.create_task(self._share_again(running))

    def _may_share(self, running: _Running) -> bool:
        if running.target in self._epochs.domains:
            return True  # the attempt that a restart cut short has come to its end
        return time.monotonic() >= running.not_before and not self._epochs.is_busy(running.target)

    def _begin_due(self, domain: DomainId) -> None:
        versions = self._epochs.versions(domain)
        newest = versions[-1]
        if len(versions) > 1:
            # An older database that was shown the new version, and has no row of its rotation.
            phase, to = Phase.REWRAPPING, newest.key_version
        else:
            due = self.next_rotation(domain)
            if due is None or time.time() < due or self._epochs.is_busy(newest):
                return
            phase, to = Phase.SHARING, newest.key_version + 1
        running = self._running[domain] = self._begun(domain, to, int(time.time()), phase)
        self._fleet.spawn(self._enter(running, phase))

    async def close(self) -> None:
        tasks = [running.sharing for running in self._running.values() if running.sharing is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What people see.

    def under_way(self, domain: DomainId) -> dict[str, Any] | None:
        running = self._running.get(domain)
        if running is None:
            return None
        total, left = self._records.count_keys(domain.value, running.to)
        phase, wrong = running.machine.phase, len(running.machine.wrong)
        waits_for = list(running.machine.waits_for)
        if phase is Phase.SHARING:
            change = self._epochs.under_way(running.target)
            waits_for = [NodeId(name) for name in change["waits_for"]] if change is not None else []
        return {
            "phase": phase.value,
            "to": running.to,
            "keys": total,
            "rewrapped": max(0, total - left - wrong),
            "wrong": wrong,
            "waits_for": [node.value for node in waits_for],
            "since": running.at,
        }

    # Facts.

    def _versions(self, domain: str) -> tuple[int, int] | None:
        """The key versions that a key's token may name, from and to; None where the domain has no epoch yet."""
        base = DomainId(domain)
        known = self._epochs.versions(base)
        if not known:
            return None
        running = self._running.get(base)
        lowest = known[0].key_version
        if running is not None and running.machine.phase.refuses_old:
            lowest = running.to
        return lowest, known[-1].key_version

    def _facts(self, running: _Running) -> Facts:
        old = [name for name in self._epochs.versions(running.domain) if name.key_version < running.to]
        drops = self._drops.get(running.domain, {})
        active = self._nodes.active
        owing = {
            node
            for name in old
            for node in self._epochs.settlings.holders_ever(name)
            if drops.get(node, 0) < running.to - 1 and node in active
        }
        target = self._epochs.domains.get(running.target)
        members = frozenset() if target is None else frozenset(node for _, node in target.shards)
        keys = self._records.keys_below(running.domain.value, running.to, rotation.BATCH)
        return Facts(keys, members, frozenset(owing), self._nodes.live)

    # Messages.

    def _of(self, domain: str, to: int) -> _Running:
        running = self._running.get(DomainId(domain))
        if running is None or running.to != to:
            raise Dropped("no_rotation", "of a rotation that is over")
        return running

    def _on_rewrapped(self, sender: NodeId, fields: Fields) -> None:
        domain, to, keys, code, reason = fields
        if code != "ok":
            _log.warning("%s wraps no keys of %s anew for now: %s (%s)", sender, domain, reason, code)
        event = rotation.Rewrapped(sender, tuple(bytes(key) for key in keys), str(code))
        self._feed(self._of(str(domain), int(to)), event)

    def _on_clean(self, sender: NodeId, fields: Fields) -> None:
        statement = bytes(fields[0])
        seen = self._hsm.module.verify(statement)
        if seen["label"] != _CLEAN or seen["signer"] != sender.value:
            raise Dropped("not_authorized", "a node speaks for itself")
        running = self._of(seen["domain"], seen["key_version"] + 1)
        self._feed(running, rotation.CleanCame(sender, statement))

    async def _on_dropped_came(self, sender: NodeId, fields: Fields) -> None:
        statement = bytes(fields[0])
        seen = self._hsm.module.verify(statement)
        if seen["label"] != _DROPPED or seen["signer"] != sender.value:
            raise Dropped("not_authorized", "a node speaks for itself")
        domain, version = DomainId(seen["domain"]), int(seen["key_version"])
        running = self._of(domain.value, version + 1)
        if version > self._drops.get(domain, {}).get(sender, 0):
            await self._database.put_drop(domain.value, sender.value, version, statement)
            await self._journal.note("dropped", domain=domain.value, node=sender.value, key_version=version)
            self._drops.setdefault(domain, {})[sender] = version
        self._feed(running, rotation.TimePassed())

    async def _on_refused(self, sender: NodeId, fields: Fields) -> None:
        domain, version, code, reason, culprits, keys = fields
        running = self._of(str(domain), int(version) + 1)
        _log.warning("%s needs the old key of %s still: %s (%s)", sender, domain, reason, code)
        wrong = tuple(bytes(key) for key in keys) if code == "wrong_material" else ()
        named = frozenset(NodeId(name) for name in culprits)
        if wrong:
            await self._journal.note(
                "wrong-material",
                domain=running.domain.value,
                node=sender.value,
                keys=[key.hex() for key in wrong],
                culprits=sorted(node.value for node in named),
            )
            names = ", ".join(sorted(map(str, named))) or "nobody that is known"
            _log.error("%d new tokens of %s are wrong, as %s says; by %s", len(wrong), domain, sender, names)
        self._feed(running, rotation.RefusedCame(sender, wrong, named))

    # The machine.

    def _feed(self, running: _Running, event: rotation.Event) -> None:
        step = running.machine.handle(event, self._facts(running), time.monotonic())
        running.machine = step.state
        if step.do:
            self._fleet.spawn(self._work(running, step.do))

    async def _work(self, running: _Running, actions: tuple[rotation.Action, ...]) -> None:
        domain, old = running.domain.value, running.to - 1
        async with running.turn:
            for action in actions:
                match action:
                    case rotation.Persist(phase):
                        await self._store(running, phase)
                    case rotation.SendRewrap(to, keys):
                        self._post(to, "key/rewrap", domain, running.to, list(keys))
                    case rotation.SendCheck(to):
                        self._post(to, "key/check", domain, old)
                    case rotation.SendDrop(to, cleans):
                        self._post(to, "key/drop", list(cleans))

    async def _enter(self, running: _Running, phase: Phase) -> None:
        running.machine = rotation.Rotation(phase, running.machine.facts)
        await self._store(running, phase)

    async def _store(self, running: _Running, phase: Phase) -> None:
        domain = running.domain
        if phase.refuses_old:
            # What was on its way when old tokens began to be refused is on record after this.
            await self._records.settled()
        await self._journal.note("rotation", domain=domain.value, key_version=running.to, phase=phase.value)
        await self._database.put_rotation(domain.value, running.to, phase.value, running.at)
        _log.info("%s: the rotation to key version %d is in phase %s", domain, running.to, phase.value)
        if phase is Phase.DROPPING:
            self._epochs.retiring[domain] = running.to - 1
        if phase.is_over and self._running.get(domain) is running:
            del self._running[domain]
        if phase is Phase.DONE:
            for name in self._epochs.drop(domain, running.to - 1):
                self._on_dropped(name)

    def _post(self, to: NodeId, kind: str, *fields: object) -> None:
        try:
            self._fleet.post(to, kind, *fields)
        except LinkDown as why:
            _log.info("%s could not be sent to %s, it gets it when it is back: %s", kind, to, why)
