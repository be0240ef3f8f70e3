"""The member's side of epochs, carried out: `protocol/member` decides, the module acts, the hub hears of it.

Here: which epochs are current in this node, who is in their committees, and what of it the hub has not heard.
Not here: whether a plan or a certificate is good (the module).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quorate import _core
from quorate.host.dispatch import Dispatch, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.ids import HUB, DomainId, Epoch, NodeId
from quorate.node.journal import Journal
from quorate.protocol import member
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Current:
    """A domain's current epoch as this node knows it. `configuration`: its hash; `serves`: whether a shard of it is
    here; `barred`: one is, and came out of an older copy of the vault.
    """

    domain: DomainId
    epoch: Epoch
    configuration: bytes
    committee: frozenset[NodeId]
    serves: bool
    barred: bool


class Epochs:
    """`on_change(domain)` is called when a domain's current epoch changes, `on_news` when there is something else to
    tell the hub: earlier epochs are gone, or a shard is worn.
    """

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        on_change: Callable[[DomainId], None],
        on_news: Callable[[], None],
    ) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._on_change = on_change
        self._on_news = on_news
        self._machine = member.Member()
        self.current: dict[DomainId, Current] = {}
        self.retired: dict[DomainId, list[int]] = {}
        """Epochs of which a shard is here that serves nothing: earlier ones, and what an older copy brought back."""
        self._worn: set[DomainId] = set()
        self.version = 0
        """Counts changes of these."""
        self._untold: set[DomainId] = set()
        self._told = 0
        """The version that the hub has heard of; 0 where it has to hear of all."""
        self.refresh()

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("epoch/plan", 2, self._on_plan, queued=True)
        dispatch.on("epoch/deal", 3, self._on_deal, queued=True)
        dispatch.on("epoch/prepare", 3, self._on_prepare, queued=True)
        dispatch.on("epoch/dispute", 2, self._on_dispute, queued=True)
        dispatch.on("epoch/commit", 3, self._on_commit, queued=True, hub_only=False)
        dispatch.on("epoch/erase", 1, self._on_erase, queued=True)
        dispatch.on("epoch/abort", 2, self._on_abort, queued=True)

    def refresh(self, only: DomainId | None = None) -> None:
        """Reads from the module what is current; of all domains, or of one."""
        listed = self._hsm.module.epochs(None if only is None else only.value)
        of: dict[DomainId, list[dict[str, Any]]] = {}
        for epoch in listed:
            of.setdefault(DomainId(epoch["domain"]), []).append(epoch)
        for domain, epochs in of.items():
            self._read(domain, epochs)
        self.version += 1

    def _read(self, domain: DomainId, epochs: list[dict[str, Any]]) -> None:
        self._untold.add(domain)
        idle = [
            each["epoch"]
            for each in epochs
            if each["state"] == "retired" or (each["barred"] and each["state"] == "current")
        ]
        self.retired.pop(domain, None)
        if idle:
            self.retired[domain] = idle
        self._worn.discard(domain)
        for epoch in epochs:
            if epoch["state"] != "current":
                continue
            plan = _core.view(_core.view(epoch["statement"])["plan"])
            committee = frozenset(NodeId(seat["node"]) for seat in plan["committee"])
            barred = bool(epoch["barred"])
            serves = bool(epoch["indices"]) and not barred
            number = Epoch(epoch["epoch"])
            self.current[domain] = Current(domain, number, epoch["configuration"], committee, serves, barred)
            if serves and epoch["worn"]:
                self._worn.add(domain)

    # What the hub hears.

    def tell_all(self) -> None:
        """The hub knows nothing of this node's epochs, or not what it should."""
        self._told = 0

    def news(self) -> tuple[int, int, list[list[Any]]]:
        """For a heartbeat: the version that the hub must have heard of, the present one, and what has changed between;
        all there is where the first is 0. A message on a link is neither lost nor late, so it is told once.
        """
        since, self._told = self._told, self.version
        wanted = self.current if since == 0 else self._untold & self.current.keys()
        rows = [self._row(self.current[domain]) for domain in sorted(wanted)]
        self._untold.clear()
        return since, self.version, rows

    def _row(self, current: Current) -> list[Any]:
        domain = current.domain
        return [
            domain.value,
            current.epoch.value,
            current.configuration if current.serves else b"",
            self.retired.get(domain, []),
            domain in self._worn,
        ]

    def used(self, domain: DomainId) -> None:
        """A shard of the domain has answered; once it is worn, the hub is told, and refreshes early."""
        if domain not in self._worn and self.serves(domain) and self._hsm.module.is_worn(domain.value):
            self.refresh(domain)
            self._on_news()

    @property
    def newest(self) -> dict[DomainId, Current]:
        """Of each domain its newest key version that is known here."""
        found: dict[DomainId, Current] = {}
        for name in sorted(self.current, key=lambda name: name.key_version):
            found[name.base] = self.current[name]
        return found

    @property
    def barred(self) -> bool:
        """Whether a shard of a current epoch here came out of an older copy of the vault: it serves nothing."""
        return any(current.barred for current in self.current.values())

    def serves(self, domain: DomainId) -> bool:
        """Whether a shard of the domain's current epoch is here."""
        current = self.current.get(domain)
        return current is not None and current.serves

    def show(self) -> None:
        """Shows the hub what is current here: its database may be an older copy, without these epochs."""
        for epoch in self._hsm.module.epochs():
            current = self.current.get(DomainId(epoch["domain"]))
            if current is not None and current.configuration == epoch["configuration"]:
                try:
                    commit = self._hsm.module.commit_certificate(epoch["domain"])
                    self._fleet.post(HUB, "epoch/current", *commit)
                except (LinkDown, _core.CoreError) as why:
                    _log.warning("epoch %s could not be shown to the hub: %s", epoch["epoch"], why)

    async def _on_plan(self, _sender: NodeId, fields: Fields) -> None:
        plan, charter = fields
        seen = _core.view(plan)
        await self._feed(member.PlanCame(DomainId(seen["domain"]), seen["hash"], plan, charter))

    async def _on_deal(self, _sender: NodeId, fields: Fields) -> None:
        plan, charter, keys = fields
        await self._feed(member.DealCame(_core.view(plan)["hash"], plan, charter, tuple(keys)))

    async def _on_prepare(self, _sender: NodeId, fields: Fields) -> None:
        configuration, dealings, sealed = fields
        parts = tuple((int(index), int(position), bytes(part)) for index, position, part in sealed)
        await self._feed(member.PrepareCame(_plan_hash(configuration), configuration, tuple(dealings), parts))

    async def _on_dispute(self, _sender: NodeId, fields: Fields) -> None:
        configuration, complaint = fields
        await self._feed(member.DisputeCame(_plan_hash(configuration), configuration, complaint))

    async def _on_commit(self, _sender: NodeId, fields: Fields) -> None:
        """From the hub; or from a member that was asked for an older epoch. The certificate speaks for itself."""
        configuration, receipts, dealings = fields
        plan_hash = _plan_hash(configuration)
        await self._feed(member.CommitCame(plan_hash, configuration, tuple(receipts), tuple(dealings)))

    async def _on_erase(self, _sender: NodeId, fields: Fields) -> None:
        await self._feed(member.EraseCame(tuple(fields[0])))

    async def _on_abort(self, _sender: NodeId, fields: Fields) -> None:
        plan_hash, reason = fields
        _log.warning("the hub gave a plan up: %s", str(reason)[:512])
        await self._feed(member.AbortCame(bytes(plan_hash)))

    async def _feed(self, event: member.Event) -> None:
        events = [event]
        while events:
            step = self._machine.handle(events.pop(0))
            self._machine = step.state
            for action in step.do:
                answer = await self._do(action)
                if answer is not None:
                    events.append(answer)

    async def _do(self, action: member.Action) -> member.Event | None:
        match action:
            case member.Send(to, kind, body):
                try:
                    self._fleet.post(to, kind, *body)
                except LinkDown as why:
                    _log.warning("%s could not be sent, the hub will ask again: %s", kind, why)
                return None
            case member.Forget(plan_hash):
                await self._hsm.slow(self._hsm.module.abort_plan, plan_hash)
                return None
            case member.Erase(receipts):
                return await self._erase(receipts)
        try:
            return await self._command(action)
        except _core.CoreError as why:
            _log.warning("the module refused a step of an epoch: %s (%s)", why.message, why.code)
            if isinstance(action, member.Activate | member.Open):
                return None  # nothing undoes a commit, and who sent this may have made it up
            if why.complaints:
                return member.Complained(action.plan_hash, tuple(why.complaints))
            return member.ModuleRefused(action.plan_hash, why.code, why.message)

    async def _erase(self, receipts: tuple[bytes, ...]) -> member.Event | None:
        try:
            statement = await self._hsm.slow(self._hsm.module.erase, list(receipts))
        except _core.CoreError as why:
            _log.warning("the module refused to erase earlier shards: %s (%s)", why.message, why.code)
            return None
        seen = _core.view(statement)
        domain = DomainId(seen["domain"])
        if domain in self.retired:  # else it is said again
            self._journal.epoch(domain, int(seen["below"]), "erased")
            self.refresh(domain)
            self._on_news()
        return member.Erased(statement)

    async def _command(
        self, action: member.AcceptPlan | member.Deal | member.Prepare | member.Open | member.Activate
    ) -> member.Event:
        module = self._hsm.module
        match action:
            case member.AcceptPlan(domain, plan_hash, plan, charter):
                keys = await self._hsm.slow(module.accept_plan, plan, charter)
                return member.KeysMade(domain, plan_hash, tuple(keys))
            case member.Deal(plan_hash, plan, charter, keys):
                made = await self._hsm.slow(module.deal, plan, charter, list(keys))
                return member.DealingsMade(plan_hash, tuple((d, tuple(sealed)) for d, sealed in made))
            case member.Prepare(_, configuration, dealings, sealed):
                receipts = await self._hsm.slow(module.prepare, configuration, list(dealings), list(sealed))
                self._note(configuration, "prepared")
                return member.Prepared(tuple(receipts))
            case member.Open(_, configuration, complaint):
                opening = await self._hsm.slow(module.answer_complaint, configuration, complaint)
                self._note(configuration, "opened")
                return member.Opened(opening)
            case member.Activate(_, configuration, certificate, dealings):
                domain = DomainId(_core.view(configuration)["domain"])
                before = self.current.get(domain)
                receipts = await self._hsm.slow(
                    module.activate, configuration, list(certificate), list(dealings)
                )
                self.refresh(domain)
                if self.current.get(domain) != before:
                    self._note(configuration, "activated" if receipts else "learnt")
                    self._on_change(domain)
                return member.Activated(configuration, tuple(receipts))

    def _note(self, configuration: bytes, step: str) -> None:
        seen = _core.view(configuration)
        self._journal.epoch(DomainId(seen["domain"]), int(seen["epoch"]), step)


def _plan_hash(configuration: bytes) -> bytes:
    plan_hash: bytes = _core.view(_core.view(configuration)["plan"])["hash"]
    return plan_hash
