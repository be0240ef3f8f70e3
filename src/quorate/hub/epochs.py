"""Epoch changes carried out, up to their commit: `protocol/epoch_change` decides, the module plans and deals, the
database keeps.

Here: one attempt for each domain at a time, its steps in order, its resumption after a restart; epochs that its
members show a hub whose database is older.
Not here: any decision; who is to change what (`changes`), what follows a commit (`settling`), who may be in a committee
beyond the charter (every module checks it).
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quorate import _core
from quorate.errors import QuorateError
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.hub.disputes import Disputes
from quorate.hub.journal import Journal
from quorate.hub.nodes import Domains, Nodes
from quorate.hub.settling import Settlings, committed, seats
from quorate.ids import HUB, DomainId, NodeId
from quorate.protocol import dispute
from quorate.protocol import epoch_change as change
from quorate.protocol.quorum import Shard, erase_quorum, margin
from quorate.protocol.session_events import DomainIs
from quorate.store.database import AttemptRow, Database, current_epochs, highest_epochs
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

SPACING_SECONDS = 0.5
"""From a domain's commit to its next plan, at least: sessions that the commit ended come to their end (attack N37)."""

_CONFIGURATION = "quorate/v1/epoch/configuration"
_PLAN_KEY = "quorate/v1/epoch/plan-key"
_PREPARED = "quorate/v1/epoch/prepared"


class EpochAborted(QuorateError):
    code = "epoch_aborted"

    def __init__(self, domain: DomainId, why: change.Finished) -> None:
        blame = f"; culprits: {', '.join(why.culprits)}" if why.culprits else ""
        super().__init__(
            f"the epoch of {domain} could not be made: {why.reason} ({why.code}){blame}",
            kept="no epoch was changed; the attempt's number is used up and its shards are erased",
            remedy="mend what is named (`quorate node list`), then try again",
        )
        self.culprits = why.culprits


class Busy(QuorateError):
    code = "epoch_busy"

    def __init__(self, domain: DomainId) -> None:
        super().__init__(
            f"an epoch change of {domain} is under way",
            kept="it goes on",
            remedy="wait for its end (`quorate domain show`), or give it up (`quorate domain abort`)",
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What an attempt is to make. `dealers`: nodes and their indices in the epoch `source`."""

    domain: DomainId
    charter: bytes
    purpose: str
    source: int
    threshold: int
    dealers: tuple[tuple[NodeId, int | None], ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain's committed epoch."""

    domain: DomainId
    epoch: int
    configuration: bytes
    threshold: int
    mode: str
    shards: tuple[Shard, ...]
    at: int
    """Unix seconds of the commit."""

    @property
    def event(self) -> DomainIs:
        return DomainIs(self.domain, self.epoch, self.configuration, self.threshold, self.shards)


@dataclass(slots=True)
class _Running:
    """An attempt under way. `steps`: (what, milliseconds since its start)."""

    domain: DomainId
    epoch: int
    purpose: str
    source: int
    """The epoch that is dealt from."""
    attempt: change.Attempt
    started: float
    steps: list[tuple[str, float]] = field(default_factory=list)
    events: deque[change.Event] = field(default_factory=deque)
    working: bool = False
    wake: asyncio.TimerHandle | None = None
    finished: asyncio.Future[change.Finished] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

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
        self._committed_at: dict[DomainId, float] = {}
        self._burnt: dict[str, int] = {}
        self._loaded = False
        self._shown: dict[bytes, set[int]] = {}
        self._certificates: dict[bytes, list[bytes]] = {}
        self._dealings: dict[bytes, list[bytes]] = {}
        self.domains: dict[DomainId, Domain] = {}
        """By sharing: each key version of a domain is one."""
        self.since: dict[DomainId, int] = {}
        """Unix seconds of each sharing's first commit."""
        self.dropped: dict[DomainId, int] = {}
        """Of each domain the highest key version that is gone everywhere."""
        self.retiring: dict[DomainId, int] = {}
        """Of each domain the highest key version whose shares are being dropped: it is not changed any more."""
        self.failures: dict[DomainId, Counter[NodeId]] = {}
        """Since the domain's last commit, whom an attempt broke down on, and how often: others deal first."""
        self.disputes = Disputes(hsm, journal)
        self.settlings = Settlings(hsm, fleet, journal, database, nodes, self._on_settled, self._on_gone)

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("epoch/plan-keys", 2, self._on_keys, hub_only=False)
        dispatch.on("epoch/dealings", 2, self._on_dealings, hub_only=False)
        dispatch.on("epoch/prepared", 1, self._on_prepared, hub_only=False)
        dispatch.on("epoch/refused", 4, self._on_refused, hub_only=False)
        dispatch.on("epoch/complaint", 1, self._on_complaint, hub_only=False)
        dispatch.on("epoch/opening", 1, self._on_opening, hub_only=False)
        dispatch.on("epoch/current", 3, self._on_current, hub_only=False)
        self.settlings.register(dispatch)

    async def load(self) -> None:
        """Takes up what the database holds: committed epochs, and attempts that a restart cut short."""
        rows = [row for row in await self._database.attempts() if not self._is_dropped(DomainId(row.domain))]
        self._burnt = highest_epochs(rows)
        for row in rows:
            if row.phase in ("committed", "closed"):
                self.since.setdefault(DomainId(row.domain), row.at or 0)
        self.settlings.load(
            [row for row in rows if row.phase in ("committed", "closed")], await self._database.erasures()
        )
        for row in current_epochs(rows).values():
            self._serve(row)
        below = {domain.value: self.settlings.needed(domain)[0] for domain in self.domains}
        for name in {row.domain for row in rows if row.epoch < below.get(row.domain, 0)}:
            await self._forget(DomainId(name))  # what was not forgotten in time
        for row in rows:
            if row.phase in ("planned", "dealt"):
                await self._resume(row)
        self._loaded = True
        for configuration in list(self._shown):
            await self._adopt(configuration)

    # Key versions.

    def versions(self, domain: DomainId) -> list[DomainId]:
        """The sharings of a domain that have a committed epoch, in the order of their key versions."""
        named = [name for name in self.domains if name.base == domain.base]
        return sorted(named, key=lambda name: name.key_version)

    def newest(self, domain: DomainId) -> DomainId | None:
        versions = self.versions(domain)
        return versions[-1] if versions else None

    def is_retiring(self, name: DomainId) -> bool:
        return name.key_version <= self.retiring.get(name.base, 0)

    def _is_dropped(self, name: DomainId) -> bool:
        return name.key_version <= self.dropped.get(name.base, 0)

    def drop(self, domain: DomainId, version: int) -> list[DomainId]:
        """Key versions up to this one are gone everywhere; returns those that there were."""
        self.dropped[domain] = max(version, self.dropped.get(domain, 0))
        gone = [name for name in self.versions(domain) if name.key_version <= version]
        for name in gone:
            del self.domains[name]
            self.settlings.forget(name)
            self.failures.pop(name, None)
        return gone

    @property
    def creating(self) -> list[dict[str, Any]]:
        """Domains whose first epoch is under way, as a domain's status tells of it."""
        found = []
        for domain, running in self._running.items():
            if not self.versions(domain):
                plan = _core.view(running.attempt.plan.statement)
                found.append(
                    {
                        "name": domain.value,
                        "mode": plan["mode"],
                        "threshold": plan["threshold"],
                        "shards": len(plan["committee"]),
                        "epoch": 0,
                        "live": 0,
                        "margin": -plan["threshold"],
                        "erasure_debt": 0,
                        "state": "creating",
                    }
                )
        return found

    def is_busy(self, domain: DomainId) -> bool:
        return domain in self._running or domain in self._planning

    def under_way(self, domain: DomainId) -> dict[str, Any] | None:
        """The attempt of the domain, for people."""
        running = self._running.get(domain)
        if running is None:
            return None
        return {
            "epoch": running.epoch,
            "purpose": running.purpose,
            "phase": running.attempt.phase.value,
            "seconds": round(time.monotonic() - running.started, 3),
            "waits_for": [node.value for node in running.attempt.waits_for],
        }

    async def make(self, order: Order) -> tuple[Domain, list[dict[str, Any]]]:
        """Makes the domain's next epoch; returns when it is committed and live members have taken it up.

        Also returns the steps with their times. Raises `Busy`, `EpochAborted`, `CoreError`.
        """
        domain = order.domain
        if self.is_busy(domain):
            raise Busy(domain)
        epoch = self._burnt.get(domain.value, 0) + 1
        self._burnt[domain.value] = epoch

        def make_plan() -> bytes:
            return self._hsm.module.plan(
                charter=order.charter,
                purpose=order.purpose,
                from_epoch=order.source,
                to_epoch=epoch,
                key_version=domain.key_version,
                threshold=order.threshold,
                dealers=[(node.value, index) for node, index in order.dealers],
                committee=[(index, node.value, "holder") for index, node in order.shards],
            )

        self._planning.add(domain)  # until it is in `_running`: one attempt at a time (attack N49)
        try:
            await asyncio.sleep(self._committed_at.get(domain, 0.0) + SPACING_SECONDS - time.monotonic())
            started = time.monotonic()
            statement = await self._hsm.slow(make_plan)
        finally:
            self._planning.discard(domain)
        plan = _plan(statement, order.charter)
        barred = frozenset(self.disputes.convicted)
        step = change.Attempt.begin(plan, self._nodes.live, time.monotonic(), barred)
        running = _Running(domain, epoch, order.purpose, order.source, step.state, started)
        await self._begin(running, step.do)
        finished = await running.finished
        if not finished.committed:
            raise EpochAborted(domain, finished)
        await self.settlings.taken_up(domain)
        running.step("activated")
        return self.domains[domain], [{"step": what, "ms": ms} for what, ms in running.steps]

    async def cancel(self, domain: DomainId, reason: str) -> bool:
        """Gives the domain's attempt up; false when there is none, or it is committed before that comes to it."""
        running = self._running.get(domain)
        if running is None:
            return False
        self._feed(running, change.Cancelled(reason))
        return not (await asyncio.shield(running.finished)).committed

    async def _resume(self, row: AttemptRow) -> None:
        dealt = None
        if row.configuration is not None and row.dealings is not None and row.sealed is not None:
            hash_ = _core.view(row.configuration)["hash"]
            sealed = tuple(tuple(one) for one in _core.decode(row.sealed))
            dealings = tuple(_core.decode(row.dealings))
            dealt = change.Dealt(dealings, sealed, bytes(row.configuration), hash_)
        plan, phase = _plan(bytes(row.plan), bytes(row.charter)), change.Phase(row.phase)
        step = change.Attempt.resume(plan, phase, dealt, time.monotonic())
        seen = _core.view(bytes(row.plan))
        purpose, source = seen["purpose"], seen["from_epoch"]
        running = _Running(DomainId(row.domain), row.epoch, purpose, source, step.state, time.monotonic())
        await self._begin(running, step.do)

    async def _begin(self, running: _Running, actions: Sequence[change.Action]) -> None:
        """The attempt's first step; what comes meanwhile waits for its end."""
        self._running[running.domain] = running
        running.working = True
        await self._work(running, actions)
        await self._drain(running)

    # Events.

    def node_changed(self, node: NodeId, domains: Domains) -> None:
        """A node became live, or is not live any more (None), or said something new of its epochs in these domains."""
        live = self._nodes.is_live(node)
        for running in list(self._running.values()):
            if live != (node in running.attempt.live):
                self._feed(running, change.NodeUp(node) if live else change.NodeDown(node))
        self.settlings.node_changed(node, domains)

    def _on_keys(self, sender: NodeId, fields: Fields) -> None:
        plan_hash, keys = bytes(fields[0]), [bytes(key) for key in fields[1]]
        found: dict[int, bytes] = {}
        for key in keys:
            seen = self._hsm.module.verify(key)
            if seen["label"] == _PLAN_KEY and seen["signer"] == sender.value and seen["plan"] == plan_hash:
                found[seen["index"]] = key
        self._feed(self._with_plan(plan_hash), change.KeysCame(sender, plan_hash, found))

    def _on_prepared(self, sender: NodeId, fields: Fields) -> None:
        for running, hash_, receipts in self._receipts(sender, fields[0]):
            self._feed(running, change.PreparedCame(sender, hash_, receipts))

    def _on_dealings(self, sender: NodeId, fields: Fields) -> None:
        """Whether they are good, the hub's module says when it makes the configuration, and every member's after it."""
        plan_hash = bytes(fields[0])
        made = tuple((bytes(dealing), tuple(bytes(part) for part in sealed)) for dealing, sealed in fields[1])
        self._feed(self._with_plan(plan_hash), change.DealingsCame(sender, plan_hash, made))

    def _on_refused(self, sender: NodeId, fields: Fields) -> None:
        """Whom it blames is not believed: a complaint is signed, and judged."""
        plan_hash, code, reason, _ = fields
        event = change.RefusedCame(sender, bytes(plan_hash), str(code), str(reason)[:512])
        self._feed(self._with_plan(bytes(plan_hash)), event)

    def _on_complaint(self, sender: NodeId, fields: Fields) -> None:
        for complaint in dict.fromkeys(fields[0]):  # each once: to judge one takes a while
            running = self._with_plan(self.disputes.plan_of(complaint))
            if running.attempt.dealt is None:
                raise Dropped("no_plan", "of a plan that is not dealt")
            self._feed(running, self.disputes.complaint(sender, complaint, running.attempt.dealt))

    def _on_opening(self, sender: NodeId, fields: Fields) -> None:
        opening = bytes(fields[0])
        seen = _core.view(opening)
        for running in self._running.values():
            if seen["complaint"] in running.attempt.disputes.cases:
                plan_hash = running.attempt.plan.hash
                self._feed(running, dispute.OpeningCame(sender, plan_hash, seen["complaint"], opening))

    async def _on_current(self, sender: NodeId, fields: Fields) -> None:
        """A node shows an epoch that is current in it: configuration, receipts of its commit, dealings."""
        configuration, receipts = bytes(fields[0]), [bytes(receipt) for receipt in fields[1]]
        if self._is_known(configuration):
            return
        dealings = [bytes(dealing) for dealing in fields[2]]
        plan = self._plan_of(configuration)
        shown = self._shown.setdefault(configuration, set())
        shown |= {index for index, node in seats(plan) if node == sender}
        if self._is_certificate(configuration, plan, receipts):  # a release before this one did not keep them
            self._certificates[configuration] = receipts
        if [_core.view(dealing)["hash"] for dealing in dealings] == _core.view(configuration)["dealings"]:
            self._dealings[configuration] = dealings
        if self._loaded:
            await self._adopt(configuration)

    def _is_known(self, configuration: bytes) -> bool:
        """The database has this epoch, or a later one: what every node shows of every domain at the hub's start."""
        seen = _core.view(configuration)
        known = self.domains.get(DomainId(seen["domain"]))
        return known is not None and known.epoch >= seen["epoch"]

    def _is_certificate(self, configuration: bytes, plan: dict[str, Any], receipts: list[bytes]) -> bool:
        """As every member's module checks it."""
        hash_, listed = _core.view(configuration)["hash"], dict(seats(plan))
        indices = set()
        for receipt in receipts:
            seen = self._hsm.module.verify(receipt)
            if seen["label"] == _PREPARED and seen["configuration"] == hash_:
                indices |= {
                    index for index in (seen["index"],) if listed.get(index) == NodeId(seen["signer"])
                }
        return len(indices) >= _needed(plan)

    def _plan_of(self, configuration: bytes) -> dict[str, Any]:
        """The plan of a configuration, both signed by this hub."""
        seen = self._hsm.module.verify(configuration)
        if seen["label"] != _CONFIGURATION or seen["signer"] != HUB.value:
            raise Dropped("not_authorized", "this is no configuration of the hub")
        return self._hsm.module.verify(seen["plan"])

    async def _adopt(self, configuration: bytes) -> None:
        """Takes up a committed epoch that the database, an older copy, does not have.

        Its certificate is proof enough, whoever shows it: members gave their receipts to this hub alone, which shows
        them to nobody before it has decided. Without one (an earlier release's modules kept none) k indices must show
        it: fewer may lie. What is known already, or is being made, needs neither.
        """
        seen, plan = _core.view(configuration), self._plan_of(configuration)
        domain, epoch = DomainId(seen["domain"]), int(seen["epoch"])
        known = self.domains.get(domain)
        if domain in self._running or domain in self._planning or (known and known.epoch >= epoch):
            return
        if self._is_dropped(domain):
            return
        charter, receipts = self.charter(domain), self._certificates.get(configuration)
        shown = len(self._shown[configuration]) >= plan["threshold"]
        if charter is None or (receipts is None and not shown):
            return
        self._planning.add(domain)
        try:
            await self._journal.epoch(domain, epoch, "adopted", "")
            columns = {"plan": seen["plan"], "charter": charter, "configuration": configuration}
            if receipts is not None:
                columns["receipts"] = _core.encode(receipts)
            if (dealings := self._dealings.get(configuration)) is not None:
                columns["dealings"] = _core.encode(dealings)
            at = int(time.time())
            await self._database.put_attempt(domain.value, epoch, phase="closed", reason="", at=at, **columns)
        finally:
            self._planning.discard(domain)
        _log.warning("epoch %d of %s was not in the database; its members have shown it", epoch, domain)
        self._burnt[domain.value] = max(epoch, self._burnt.get(domain.value, 0))
        await self._take_up(domain, epoch)

    async def _take_up(self, domain: DomainId, epoch: int) -> None:
        """The epoch is committed, and durable."""
        (row,) = await self._database.committed_after(domain.value, epoch - 1)
        self.settlings.begin(committed(row))
        self._serve(row)

    def charter(self, domain: DomainId) -> bytes | None:
        return self._hsm.module.charter(domain.base.value)

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
            if seen["label"] == _PREPARED and seen["signer"] == sender.value:
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
                before, event = running.attempt, running.events.popleft()
                step = before.handle(event, time.monotonic())
                running.attempt = step.state
                if step.state.phase is change.Phase.ABORTED:
                    self.failures.setdefault(running.domain, Counter()).update(_failed(before, event))
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
        if running.attempt.phase in (change.Phase.COMMITTED, change.Phase.ABORTED):
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
                made = await self._hsm.slow(self._hsm.module.deal, plan.statement, plan.charter, list(keys))
                event = change.DealingsCame(HUB, plan.hash, tuple((d, tuple(s)) for d, s in made))
                self._feed(running, event)
            case change.SendDeal(to, keys):
                if to == plan.dealing[0]:
                    running.step("keys")
                self._post(to, "epoch/deal", plan.statement, plan.charter, list(keys))
            case change.Configure(made):
                dealt = await self._hsm.slow(self._configure, plan, made)
                self._feed(running, change.Configured(dealt))
            case change.SendPlan(to):
                if not plan.is_fresh:
                    await self.settlings.introduce(to, running.domain, running.source)
                self._post(to, "epoch/plan", plan.statement, plan.charter)
            case change.SendPrepare(to, configuration, dealings, sealed):
                listed = [[index, position, part] for index, position, part in sealed]
                self._post(to, "epoch/prepare", configuration, list(dealings), listed)
            case dispute.SendDispute(to, complaint):
                assert running.attempt.dealt is not None
                self._post(to, "epoch/dispute", running.attempt.dealt.configuration, complaint)
            case dispute.Judge(case, opening):
                assert running.attempt.dealt is not None
                judged = await self.disputes.judge(running.attempt.dealt.configuration, case, opening)
                if judged is not None:
                    self._feed(running, judged)
            case dispute.Convict(case, verdict, opening):
                await self.disputes.convict(running.domain, running.epoch, case, verdict, opening)
                if not verdict.proven:
                    self.failures.setdefault(running.domain, Counter())[verdict.convicted] += 1
            case change.SendAbort(to, reason):
                self._post(to, "epoch/abort", plan.hash, reason[:512])
            case change.Finished():
                running.finished.set_result(action)

    def _configure(self, plan: change.Plan, made: tuple[change.Made, ...]) -> change.Dealt:
        dealings = tuple(dealing for dealing, _ in made)
        sealed = [list(parts) for _, parts in made]
        configuration = self._hsm.module.configure(plan.statement, list(dealings), sealed)
        hash_ = _core.view(configuration)["hash"]
        return change.Dealt(dealings, tuple(sealed for _, sealed in made), configuration, hash_)

    async def _persist(self, running: _Running, persist: change.Persist) -> None:
        await self._journal.epoch(running.domain, running.epoch, persist.phase.value, persist.reason)
        plan = running.attempt.plan
        columns: dict[str, object] = {"phase": persist.phase.value, "reason": persist.reason[:1024]}
        if persist.phase in (change.Phase.PLANNED, change.Phase.ABORTED):
            columns |= {"plan": plan.statement, "charter": plan.charter}
        if persist.dealt is not None:
            columns |= {
                "dealings": _core.encode(list(persist.dealt.dealings)),
                "sealed": _core.encode([list(sealed) for sealed in persist.dealt.sealed]),
                "configuration": persist.dealt.configuration,
            }
        if persist.phase is change.Phase.COMMITTED:
            columns |= {"receipts": _core.encode(list(persist.receipts)), "at": int(time.time())}
        if persist.phase in (change.Phase.COMMITTED, change.Phase.ABORTED):
            columns["sealed"] = None  # of no more use
        await self._database.put_attempt(running.domain.value, running.epoch, **columns)
        running.step({"dealt": "dealt", "committed": "prepared"}.get(persist.phase, persist.phase.value))
        if persist.phase is change.Phase.COMMITTED:
            self._committed_at[running.domain] = time.monotonic()
            await self._take_up(running.domain, running.epoch)
            running.step("committed")

    def _serve(self, row: AttemptRow) -> None:
        """Sessions are of this epoch from now on."""
        assert row.configuration is not None
        seen = _core.view(bytes(row.configuration))
        plan = _core.view(seen["plan"])
        shards = seats(plan)
        domain = Domain(
            DomainId(row.domain),
            row.epoch,
            seen["hash"],
            plan["threshold"],
            plan["mode"],
            shards,
            row.at or 0,
        )
        self.domains[domain.domain] = domain
        self.since.setdefault(domain.domain, domain.at)
        self.failures.pop(domain.domain, None)
        self._on_commit(domain)

    def _on_settled(self, domain: DomainId, epoch: int) -> None:
        self._fleet.spawn(self._close(domain, epoch))

    async def _close(self, domain: DomainId, epoch: int) -> None:
        await self._journal.epoch(domain, epoch, "closed")
        await self._database.put_attempt(domain.value, epoch, phase="closed")
        await self._forget(domain)

    def _on_gone(self, domain: DomainId) -> None:
        self._fleet.spawn(self._forget(domain))

    async def _forget(self, domain: DomainId) -> None:
        """The audit log has every attempt; the database those that somebody may still have to be shown."""
        await self._database.forget_attempts(domain.value, *self.settlings.needed(domain))

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


def _failed(attempt: change.Attempt, event: change.Event) -> list[NodeId]:
    """Whom the attempt broke down on: dealers that kept silent, or who refused or is to blame."""
    match event:
        case change.TimePassed() if attempt.dealing:
            return list(attempt.waits_for)
        case change.RefusedCame(sender, _, _, _, culprits):
            blamed = culprits if sender == HUB else ()
            return [node for node in attempt.plan.dealing if node == sender or node.value in blamed]
    return []


def _plan(statement: bytes, charter: bytes) -> change.Plan:
    seen = _core.view(statement)
    shards = seats(seen)
    dealers = tuple((NodeId(dealer["node"]), dealer["index"]) for dealer in seen["dealers"])
    # Behind a first epoch there is no other: of so many receipts k tell the truth, although k - 1 lie.
    is_fresh = seen["purpose"] in ("create", "rotate")
    needed = erase_quorum(len(shards), seen["threshold"]) if is_fresh else _needed(seen)
    return change.Plan(seen["hash"], statement, charter, shards, max(needed, _needed(seen)), dealers)


def _needed(plan: dict[str, Any]) -> int:
    """k + z: what a member's module wants of a certificate."""
    threshold: int = plan["threshold"]
    return threshold + margin(len(plan["committee"]), threshold)
