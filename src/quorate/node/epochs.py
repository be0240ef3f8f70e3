"""The member's side of epochs, carried out: `protocol/member` decides, the module acts, the hub hears of it.

Here: which epochs are current in this node, and who is in their committees.
Not here: whether a plan or a certificate is good (the module).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

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
    """An epoch that this node holds shards of. `configuration`: its hash."""

    domain: DomainId
    epoch: Epoch
    configuration: bytes
    committee: frozenset[NodeId]


class Epochs:
    """`on_change` is called when a domain's current epoch changes."""

    def __init__(self, hsm: Hsm, fleet: Fleet, journal: Journal, on_change: Callable[[], None]) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._on_change = on_change
        self._machine = member.Member()
        self.current: dict[DomainId, Current] = {}
        self.refresh()

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("epoch/plan", 2, self._on_plan, queued=True)
        dispatch.on("epoch/prepare", 3, self._on_prepare, queued=True)
        dispatch.on("epoch/commit", 2, self._on_commit, queued=True)
        dispatch.on("epoch/abort", 2, self._on_abort, queued=True)

    def refresh(self) -> None:
        """Reads from the module what is current."""
        found: dict[DomainId, Current] = {}
        for epoch in self._hsm.module.epochs():
            if epoch["state"] != "current":
                continue
            domain, number = DomainId(epoch["domain"]), Epoch(epoch["epoch"])
            if domain in found and found[domain].epoch > number:
                continue
            plan = _core.view(_core.view(epoch["statement"])["plan"])
            committee = frozenset(NodeId(seat["node"]) for seat in plan["committee"])
            found[domain] = Current(domain, number, epoch["configuration"], committee)
        self.current = found

    def show(self) -> None:
        """Shows the hub what is current here: its database may be an older copy, without these epochs."""
        for epoch in self._hsm.module.epochs():
            current = self.current.get(DomainId(epoch["domain"]))
            if current is not None and current.configuration == epoch["configuration"]:
                self._fleet.post(HUB, "epoch/current", epoch["statement"])

    async def _on_plan(self, _sender: NodeId, fields: Fields) -> None:
        plan, charter = fields
        seen = _core.view(plan)
        await self._feed(member.PlanCame(DomainId(seen["domain"]), seen["hash"], plan, charter))

    async def _on_prepare(self, _sender: NodeId, fields: Fields) -> None:
        configuration, dealings, sealed = fields
        parts = tuple((int(index), int(position), bytes(part)) for index, position, part in sealed)
        await self._feed(member.PrepareCame(_plan_hash(configuration), configuration, tuple(dealings), parts))

    async def _on_commit(self, _sender: NodeId, fields: Fields) -> None:
        configuration, receipts = fields
        await self._feed(member.CommitCame(_plan_hash(configuration), configuration, tuple(receipts)))

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
        try:
            return await self._command(action)
        except _core.CoreError as why:
            _log.warning("the module refused a step of an epoch: %s (%s)", why.message, why.code)
            return member.ModuleRefused(action.plan_hash, why.code, why.message, tuple(why.culprits))

    async def _command(self, action: member.AcceptPlan | member.Prepare | member.Activate) -> member.Event:
        module = self._hsm.module
        match action:
            case member.AcceptPlan(domain, plan_hash, plan, charter):
                keys = await self._hsm.slow(module.accept_plan, plan, charter)
                return member.KeysMade(domain, plan_hash, tuple(keys))
            case member.Prepare(_, configuration, dealings, sealed):
                receipts = await self._hsm.slow(module.prepare, configuration, list(dealings), list(sealed))
                self._note(configuration, "prepared")
                return member.Prepared(tuple(receipts))
            case member.Activate(_, configuration, certificate):
                receipts = await self._hsm.slow(module.activate, configuration, list(certificate))
                self._note(configuration, "activated")
                self.refresh()
                self._on_change()
                return member.Activated(tuple(receipts))

    def _note(self, configuration: bytes, step: str) -> None:
        seen = _core.view(configuration)
        self._journal.epoch(DomainId(seen["domain"]), int(seen["epoch"]), step)


def _plan_hash(configuration: bytes) -> bytes:
    plan_hash: bytes = _core.view(_core.view(configuration)["plan"])["hash"]
    return plan_hash
