"""Epoch changes carried out: `protocol/epoch_change` decides, the module plans and deals, the database keeps.

Here: one attempt for each domain at a time, its steps in order, its resumption after a restart; epochs that its
members show a hub whose database is older.
Not here: any decision; who may be in a committee beyond the charter (every module checks it).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quorate import _core
from quorate.errors import BadInput, QuorateError
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.hub.journal import Journal
from quorate.hub.nodes import Nodes
from quorate.ids import HUB, DomainId, NodeId, Quorum
from quorate.protocol import epoch_change as change
from quorate.protocol.quorum import Shard, margin
from quorate.protocol.session_events import DomainIs
from quorate.store.database import AttemptRow, Database, current_epochs, highest_epochs
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

_CONFIGURATION = "quorate/v1/epoch/configuration"


class EpochAborted(QuorateError):
    code = "epoch_aborted"

    def __init__(self, domain: DomainId, why: change.Finished) -> None:
        blame = f"; culprits: {', '.join(why.culprits)}" if why.culprits else ""
        super().__init__(
            f"the epoch of {domain} could not be made: {why.reason} ({why.code}){blame}",
            kept="no epoch was changed; the attempt's number is used up and its shards are erased",
            remedy="mend what is named (`quorate node list`), then create the domain again",
        )
        self.culprits = why.culprits


class DomainExists(QuorateError):
    code = "domain_exists"

    def __init__(self, domain: DomainId) -> None:
        super().__init__(
            f"the domain {domain} exists, or is being created",
            kept="it is unchanged",
            remedy="choose another name, or use the domain that is there (`quorate domain show`)",
        )


class NotEnoughHolders(QuorateError):
    code = "not_enough_holders"

    def __init__(self, reason: str) -> None:
        super().__init__(
            reason,
            kept="nothing was changed",
            remedy="start or enrol more nodes (`quorate node list`), or take fewer --shards",
        )


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain's committed epoch."""

    domain: DomainId
    epoch: int
    configuration: bytes
    threshold: int
    mode: str
    shards: tuple[Shard, ...]

    @property
    def event(self) -> DomainIs:
        return DomainIs(self.domain, self.epoch, self.configuration, self.threshold, self.shards)


@dataclass(slots=True)
class _Running:
    """An attempt under way or not yet closed. `steps`: (what, milliseconds since its start)."""

    domain: DomainId
    epoch: int
    attempt: change.Attempt
    started: float
    steps: list[tuple[str, float]] = field(default_factory=list)
    events: deque[change.Event] = field(default_factory=deque)
    working: bool = False
    wake: asyncio.TimerHandle | None = None
    finished: asyncio.Future[change.Finished] | None = None

    def step(self, what: str) -> None:
        self.steps.append((what, round(1000 * (time.monotonic() - self.started), 3)))


class Epochs:
    """`on_commit(domain)` is called when a domain's epoch is committed."""

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        database: Database,
        nodes: Nodes,
        on_commit: Callable[[Domain], None],
    ) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._database = database
        self._nodes = nodes
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._running: dict[DomainId, _Running] = {}
        self._planning: set[DomainId] = set()
        self._burnt: dict[str, int] = {}
        self._loaded = False
        self._shown: dict[bytes, set[int]] = {}
        self.domains: dict[DomainId, Domain] = {}

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("epoch/plan-keys", 2, self._on_keys, hub_only=False)
        dispatch.on("epoch/prepared", 1, self._on_prepared, hub_only=False)
        dispatch.on("epoch/activated", 1, self._on_activated, hub_only=False)
        dispatch.on("epoch/refused", 4, self._on_refused, hub_only=False)
        dispatch.on("epoch/current", 1, self._on_current, hub_only=False)

    async def load(self) -> None:
        """Takes up what the database holds: committed epochs, and attempts that a restart cut short."""
        rows = await self._database.attempts()
        self._burnt = highest_epochs(rows)
        for row in current_epochs(rows).values():
            self._commit(row.domain, bytes(row.configuration or b""))
        for row in rows:
            if row.phase in ("planned", "dealt", "committed"):
                await self._resume(row)
        self._loaded = True
        for configuration in list(self._shown):
            await self._adopt(configuration)

    @property
    def creating(self) -> frozenset[DomainId]:
        return frozenset(domain for domain in self._running if domain not in self.domains)

    def check_creation(
        self, charter: bytes, quorum: Quorum, only: Sequence[str] | None
    ) -> tuple[DomainId, tuple[Shard, ...]]:
        """The domain, and who would hold its shards now. Raises `DomainExists`, `NotEnoughHolders`, `BadInput`."""
        seen = _core.view_approved(charter)
        domain = DomainId(seen["domain"])
        if domain in self.domains or domain in self._running or domain in self._planning:
            raise DomainExists(domain)
        return domain, self._committee(seen, quorum, only)

    async def create(
        self, charter: bytes, quorum: Quorum, *, only: Sequence[str] | None
    ) -> tuple[Domain, list[dict[str, Any]]]:
        """Makes a domain's first epoch under a charter; returns when it is committed and live members serve it.

        `only`: the nodes to choose from. Also returns the steps with their times. Raises `DomainExists`,
        `NotEnoughHolders`, `BadInput`, `EpochAborted`, `CoreError`.
        """
        domain, seats = self.check_creation(charter, quorum, only)
        epoch = self._burnt.get(domain.value, 0) + 1
        self._burnt[domain.value] = epoch

        def make_plan() -> bytes:
            return self._hsm.module.plan(
                charter=charter,
                purpose="create",
                from_epoch=0,
                to_epoch=epoch,
                threshold=quorum.threshold,
                dealers=[(HUB.value, None)],
                committee=[(index, node.value, "holder") for index, node in seats],
            )

        self._planning.add(domain)  # until it is in `_running`: one attempt at a time (attack N49)
        try:
            statement = await self._hsm.slow(make_plan)
        finally:
            self._planning.discard(domain)
        plan = _plan(statement, charter)
        step = change.Attempt.begin(plan, self._nodes.live, time.monotonic())
        running = _Running(domain, epoch, step.state, time.monotonic(), finished=self._loop.create_future())
        self._running[domain] = running
        await self._work(running, step.do)
        assert running.finished is not None
        finished = await running.finished
        if not finished.committed:
            raise EpochAborted(domain, finished)
        return self.domains[domain], [{"step": what, "ms": ms} for what, ms in running.steps]

    def _committee(
        self, charter: dict[str, Any], quorum: Quorum, only: Sequence[str] | None
    ) -> tuple[Shard, ...]:
        """Indices 1…n, one for each of n live holders, which are spread over zones."""
        allowed = [NodeId(entry["node"]) for entry in charter["allowed"] if entry["role"] == "holder"]
        if foreign := sorted(set(only or ()) - {node.value for node in allowed}):
            raise BadInput(
                f"the charter of {charter['domain']} does not allow {', '.join(foreign)}",
                remedy="choose holders that the charter allows (`quorate node list`)",
            )
        wanted = [node for node in allowed if only is None or node.value in only]
        live = [node for node in wanted if self._nodes.is_live(node)]
        if len(live) < quorum.holders:
            raise NotEnoughHolders(
                f"{quorum.holders} shards need a live holder each, and {len(live)} of {len(wanted)} holders are live"
            )
        zones: dict[str, list[NodeId]] = {}
        for node in live:
            zones.setdefault(self._nodes.zone(node), []).append(node)
        spread: list[NodeId] = []
        while len(spread) < len(live):
            spread += [zones[zone].pop(0) for zone in sorted(zones) if zones[zone]]
        return tuple(enumerate(spread[: quorum.holders], start=1))

    async def _resume(self, row: AttemptRow) -> None:
        dealt = None
        receipts: dict[int, bytes] = {}
        if row.configuration is not None and row.dealing is not None and row.sealed is not None:
            hash_ = _core.view(row.configuration)["hash"]
            sealed = tuple(_core.decode(row.sealed))
            dealt = change.Dealt(bytes(row.dealing), sealed, bytes(row.configuration), hash_)
        if row.receipts is not None:
            receipts = {_core.view(receipt)["index"]: receipt for receipt in _core.decode(row.receipts)}
        plan, phase = _plan(bytes(row.plan), bytes(row.charter)), change.Phase(row.phase)
        step = change.Attempt.resume(plan, phase, dealt, receipts, time.monotonic())
        running = _Running(DomainId(row.domain), row.epoch, step.state, time.monotonic())
        self._running[running.domain] = running
        await self._work(running, step.do)

    # Events.

    def node_changed(self, node: NodeId) -> None:
        """A node became live, or is not live any more."""
        live = self._nodes.is_live(node)
        for running in list(self._running.values()):
            if live != (node in running.attempt.live):
                self._feed(running, change.NodeUp(node) if live else change.NodeDown(node))

    def _on_keys(self, sender: NodeId, fields: Fields) -> None:
        plan_hash, keys = bytes(fields[0]), [bytes(key) for key in fields[1]]
        found: dict[int, bytes] = {}
        for key in keys:
            seen = self._hsm.module.verify(key)
            if seen["signer"] == sender.value and seen["plan"] == plan_hash:
                found[seen["index"]] = key
        self._feed(self._with_plan(plan_hash), change.KeysCame(sender, plan_hash, found))

    def _on_prepared(self, sender: NodeId, fields: Fields) -> None:
        for running, hash_, receipts in self._receipts(sender, fields[0]):
            self._feed(running, change.PreparedCame(sender, hash_, receipts))

    def _on_activated(self, sender: NodeId, fields: Fields) -> None:
        for running, hash_, receipts in self._receipts(sender, fields[0]):
            self._feed(running, change.ActivatedCame(sender, hash_, tuple(receipts)))

    def _on_refused(self, sender: NodeId, fields: Fields) -> None:
        plan_hash, code, reason, culprits = fields
        names = tuple(str(name) for name in culprits)
        event = change.RefusedCame(sender, bytes(plan_hash), str(code), str(reason)[:512], names)
        self._feed(self._with_plan(bytes(plan_hash)), event)

    async def _on_current(self, sender: NodeId, fields: Fields) -> None:
        """A node shows the configuration of an epoch that is current in it: it has seen the commit's certificate."""
        configuration = bytes(fields[0])
        plan = self._plan_of(configuration)
        shown = self._shown.setdefault(configuration, set())
        shown |= {index for index, node in _seats(plan) if node == sender}
        if self._loaded:
            await self._adopt(configuration)

    def _plan_of(self, configuration: bytes) -> dict[str, Any]:
        """The plan of a configuration, both signed by this hub."""
        seen = self._hsm.module.verify(configuration)
        if seen["label"] != _CONFIGURATION or seen["signer"] != HUB.value:
            raise Dropped("not_authorized", "this is no configuration of the hub")
        return self._hsm.module.verify(seen["plan"])

    async def _adopt(self, configuration: bytes) -> None:
        """Takes up a committed epoch that the database, an older copy, does not have.

        k indices must show it: fewer may lie, and one that does not has checked its certificate. What is known
        already, or is being made, needs none.
        """
        seen, plan = _core.view(configuration), self._plan_of(configuration)
        domain, epoch = DomainId(seen["domain"]), int(seen["epoch"])
        known = self.domains.get(domain)
        if domain in self._running or domain in self._planning or (known and known.epoch >= epoch):
            return
        charter = self._charter(domain)
        if charter is None or len(self._shown[configuration]) < plan["threshold"]:
            return
        self._planning.add(domain)
        try:
            await self._journal.epoch(domain, epoch, "adopted", "")
            columns = {"plan": seen["plan"], "charter": charter, "configuration": configuration}
            await self._database.put_attempt(domain.value, epoch, phase="closed", reason="", **columns)
        finally:
            self._planning.discard(domain)
        _log.warning("epoch %d of %s was not in the database; its members have shown it", epoch, domain)
        self._burnt[domain.value] = max(epoch, self._burnt.get(domain.value, 0))
        self._commit(domain.value, configuration)

    def _charter(self, domain: DomainId) -> bytes | None:
        for statement in self._hsm.module.records("charter"):
            if _core.view_approved(statement)["domain"] == domain.value:
                return statement
        return None

    def _with_plan(self, plan_hash: bytes) -> _Running:
        for running in self._running.values():
            if running.attempt.plan.hash == plan_hash:
                return running
        raise Dropped("no_plan", "of a plan that is over")

    def _receipts(self, sender: NodeId, statements: Any) -> list[tuple[_Running, bytes, dict[int, bytes]]]:
        """Verified receipts of one sender, by attempt."""
        found: dict[tuple[DomainId, bytes], dict[int, bytes]] = {}
        for receipt in statements:
            seen = self._hsm.module.verify(receipt)
            if seen["signer"] == sender.value:
                known = found.setdefault((DomainId(seen["domain"]), seen["configuration"]), {})
                known[seen["index"]] = bytes(receipt)
        return [
            (self._running[domain], hash_, receipts)
            for (domain, hash_), receipts in found.items()
            if domain in self._running
        ]

    # One attempt's work, in order.

    def _feed(self, running: _Running, event: change.Event) -> None:
        running.events.append(event)
        if not running.working:
            running.working = True
            self._fleet.spawn(self._drain(running))

    async def _drain(self, running: _Running) -> None:
        try:
            while running.events:
                step = running.attempt.handle(running.events.popleft(), time.monotonic())
                running.attempt = step.state
                await self._work(running, step.do)
        finally:
            running.working = False

    async def _work(self, running: _Running, actions: Sequence[change.Action]) -> None:
        for action in actions:
            try:
                await self._do(running, action)
            except _core.CoreError as why:
                _log.warning("the hub's module refused a step of an epoch: %s (%s)", why.message, why.code)
                hash_ = running.attempt.plan.hash
                culprits = tuple(why.culprits)
                self._feed(running, change.RefusedCame(HUB, hash_, why.code, why.message, culprits))
                break
        self._arm(running)
        if running.attempt.phase in (change.Phase.CLOSED, change.Phase.ABORTED):
            if running.wake is not None:
                running.wake.cancel()
            if self._running.get(running.domain) is running:
                del self._running[running.domain]

    async def _do(self, running: _Running, action: change.Action) -> None:
        plan = running.attempt.plan
        match action:
            case change.Persist():
                await self._persist(running, action)
            case change.Deal(keys):
                running.step("keys")
                dealt = await self._hsm.slow(self._deal, plan, keys)
                self._feed(running, change.DealingMade(dealt))
            case change.SendPlan(to):
                self._post(to, "epoch/plan", plan.statement, plan.charter)
            case change.SendPrepare(to, configuration, dealing, sealed):
                listed = [[index, position, part] for index, position, part in sealed]
                self._post(to, "epoch/prepare", configuration, [dealing], listed)
            case change.SendCommit(to, configuration, receipts):
                self._post(to, "epoch/commit", configuration, list(receipts))
            case change.SendAbort(to, reason):
                self._post(to, "epoch/abort", plan.hash, reason[:512])
            case change.Finished():
                if running.finished is not None and not running.finished.done():
                    running.finished.set_result(action)

    def _deal(self, plan: change.Plan, keys: Sequence[bytes]) -> change.Dealt:
        """The dealing and its configuration; when this returns, the module has erased the domain key."""
        module = self._hsm.module
        dealing, sealed = module.deal(plan.statement, list(keys))
        configuration = module.configure(plan.statement, [dealing])
        return change.Dealt(dealing, tuple(sealed), configuration, _core.view(configuration)["hash"])

    async def _persist(self, running: _Running, persist: change.Persist) -> None:
        await self._journal.epoch(running.domain, running.epoch, persist.phase.value, persist.reason)
        plan = running.attempt.plan
        columns: dict[str, object] = {"phase": persist.phase.value, "reason": persist.reason[:1024]}
        if persist.phase in (change.Phase.PLANNED, change.Phase.ABORTED):
            columns |= {"plan": plan.statement, "charter": plan.charter}
        if persist.dealt is not None:
            columns |= {
                "dealing": persist.dealt.dealing,
                "sealed": _core.encode(list(persist.dealt.sealed)),
                "configuration": persist.dealt.configuration,
            }
        if persist.receipts:
            columns["receipts"] = _core.encode(list(persist.receipts))
        if persist.phase in (change.Phase.CLOSED, change.Phase.ABORTED):
            columns["sealed"] = None  # of no more use
        await self._database.put_attempt(running.domain.value, running.epoch, **columns)
        running.step({"dealt": "dealt", "committed": "prepared"}.get(persist.phase, persist.phase.value))
        if persist.phase is change.Phase.COMMITTED:
            dealt = running.attempt.dealt
            assert dealt is not None
            self._commit(running.domain.value, dealt.configuration)
            running.step("committed")

    def _commit(self, name: str, configuration: bytes) -> None:
        seen = _core.view(configuration)
        plan = _core.view(seen["plan"])
        domain = Domain(
            DomainId(name),
            seen["epoch"],
            seen["hash"],
            plan["threshold"],
            plan["mode"],
            _seats(plan),
        )
        self.domains[domain.domain] = domain
        self._on_commit(domain)

    def _arm(self, running: _Running) -> None:
        if running.wake is not None:
            running.wake.cancel()
            running.wake = None
        if (at := running.attempt.wake) is not None:
            delay = max(0.001, at - time.monotonic())
            running.wake = self._loop.call_later(delay, self._feed, running, change.TimePassed())

    def _post(self, to: NodeId, kind: str, *fields: object) -> None:
        try:
            self._fleet.post(to, kind, *fields)
        except LinkDown as why:
            _log.info("%s could not be sent to %s, it gets it when it is back: %s", kind, to, why)


def _plan(statement: bytes, charter: bytes) -> change.Plan:
    seen = _core.view(statement)
    seats = _seats(seen)
    needed = seen["threshold"] + margin(len(seats), seen["threshold"])
    return change.Plan(seen["hash"], statement, charter, seats, needed)


def _seats(plan: dict[str, Any]) -> tuple[Shard, ...]:
    return tuple((seat["index"], NodeId(seat["node"])) for seat in plan["committee"])
