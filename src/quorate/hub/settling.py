"""What follows the commits of epochs, carried out: `protocol/epoch_settling` decides.

Here: the certificates on their way to members, one that comes back and has missed epochs, what is proven to be erased
and what is owed, which members are lagging.
Not here: attempts (`epochs`), when a lagging member is repaired (`changes`).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quorate import _core
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.hub.journal import Journal
from quorate.hub.nodes import Domains, Nodes
from quorate.ids import DomainId, NodeId
from quorate.protocol import epoch_settling as settling
from quorate.protocol.epoch_change import NodeDown, NodeUp, TimePassed
from quorate.protocol.quorum import Shard
from quorate.store.database import AttemptRow, Database
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

_ACTIVATED = "quorate/v1/epoch/activated"


@dataclass(frozen=True, slots=True)
class Committed:
    """A committed epoch. `configuration` is the statement, `hash` its hash; `at`: unix seconds of its commit."""

    domain: DomainId
    epoch: int
    hash: bytes
    threshold: int
    shards: tuple[Shard, ...]
    configuration: bytes
    receipts: tuple[bytes, ...]
    dealings: tuple[bytes, ...]
    at: int


@dataclass(slots=True)
class _Of:
    """One domain's current epoch, and what there was before it and is not proven to be erased."""

    committed: Committed
    machine: settling.Settling
    taken_up: asyncio.Future[None]
    wake: asyncio.TimerHandle | None = None


class Settlings:
    """`on_settled(domain, epoch)` is called when all members hold the epoch and nothing before it is left; `on_gone`
    when an earlier epoch is proven to be erased everywhere.
    """

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        database: Database,
        nodes: Nodes,
        on_settled: Callable[[DomainId, int], None],
        on_gone: Callable[[DomainId], None],
    ) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._database = database
        self._nodes = nodes
        self._on_settled = on_settled
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._of: dict[DomainId, _Of] = {}
        self._earlier: dict[DomainId, dict[int, Committed]] = {}
        """Earlier epochs of which something may be left."""
        self._erased: dict[DomainId, dict[NodeId, int]] = {}
        self._shown: dict[tuple[NodeId, DomainId], int] = {}
        """The epoch from which a node was last led on."""
        self._revived: dict[DomainId, set[NodeId]] = {}
        """Nodes that have shares which they had proven to have erased: an older copy of the vault brought them back."""

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("epoch/activated", 2, self._on_activated, hub_only=False)
        dispatch.on("epoch/erased", 1, self._on_erased, hub_only=False)

    def load(self, rows: list[AttemptRow], erased: dict[str, dict[str, int]]) -> None:
        """`rows`: committed epochs, each domain's in order; the last is current."""
        for name, nodes in erased.items():
            self._erased[DomainId(name)] = {NodeId(node): below for node, below in nodes.items()}
        for row in rows:
            self.begin(committed(row), settled=row.phase == "closed")

    def begin(self, committed: Committed, *, settled: bool = False) -> None:
        """An epoch was committed: it takes the place of the one before. `settled`: all was done before."""
        domain, before = committed.domain, self._of.get(committed.domain)
        if before is not None:
            self._earlier.setdefault(domain, {})[before.committed.epoch] = before.committed
            if before.wake is not None:
                before.wake.cancel()
            if not before.taken_up.done():
                before.taken_up.set_result(None)
        self._prune(domain)
        owing = frozenset(
            node
            for epoch, earlier in self._earlier.get(domain, {}).items()
            for _, node in earlier.shards
            if self._erased.get(domain, {}).get(node, 0) <= epoch
        ) | frozenset(self._revived.get(domain, ()))
        step = settling.Settling.begin(
            committed.shards, committed.threshold, owing, self._nodes.live, time.monotonic()
        )
        of = self._of[domain] = _Of(committed, step.state, self._loop.create_future())
        if settled:
            of.machine = settling.Settling.over(committed.shards, committed.threshold)
        else:
            self._do(of, step)

    def forget(self, domain: DomainId) -> None:
        """Nothing of the domain's key version is left anywhere."""
        of = self._of.pop(domain)
        if of.wake is not None:
            of.wake.cancel()
        self._earlier.pop(domain, None)
        self._erased.pop(domain, None)

    def holders_ever(self, domain: DomainId) -> frozenset[NodeId]:
        """Who may have a share of the domain's key version, of whatever epoch."""
        erased = self._erased.get(domain, {})
        earlier = self._earlier.get(domain, {}).items()
        old = {node for epoch, each in earlier for _, node in each.shards if erased.get(node, 0) <= epoch}
        return frozenset(old | {node for _, node in self._of[domain].committed.shards})

    async def introduce(self, node: NodeId, domain: DomainId, epoch: int) -> None:
        """Shows a node that knows less of a domain the epoch that is dealt from, before a plan comes to it."""
        said = self._nodes.known.get(node)
        known = None if said is None else said.epochs.get(domain)
        # One that knows nothing needs no chain: the epoch itself will do.
        await self._show(node, domain, epoch - 1 if known is None else known[0], epoch)

    async def taken_up(self, domain: DomainId) -> None:
        """Returns when every live member has taken the current epoch up, or has had the time to."""
        await asyncio.shield(self._of[domain].taken_up)

    def is_openable_before(self, domain: DomainId) -> bool:
        """Whether enough shards of an earlier epoch may be left to open the domain."""
        debts, earlier = self.debts(domain), self._earlier.get(domain, {})
        return any(debts[epoch] >= each.threshold for epoch, each in earlier.items())

    def debts(self, domain: DomainId) -> dict[int, int]:
        """Of each earlier epoch, the number of its indices that are not proven to be erased."""
        erased = self._erased.get(domain, {})
        return {
            epoch: sum(erased.get(node, 0) <= epoch for _, node in earlier.shards)
            for epoch, earlier in self._earlier.get(domain, {}).items()
        }

    def erased_below(self, domain: DomainId, node: NodeId) -> int:
        """The node has proven that it holds nothing of an epoch of the domain under this number."""
        return self._erased.get(domain, {}).get(node, 0)

    def earlier(self, domain: DomainId) -> list[Committed]:
        """Earlier epochs that are not proven to be erased everywhere, the newest first."""
        known = self._earlier.get(domain, {})
        return [known[epoch] for epoch in sorted(known, reverse=True)]

    def lagging(self, domain: DomainId) -> frozenset[NodeId]:
        """Members of the current epoch that have no share of it, as they say or because they know an older one only;
        and nodes in which a copy has brought back what was erased, until an epoch has them erase it again.
        """
        of = self._of[domain]
        seats = {node for _, node in of.committed.shards}
        wanted = (of.committed.epoch, of.committed.hash)
        behind = {
            node
            for node in seats
            if (known := self._nodes.known.get(node)) is not None
            and self._nodes.is_live(node)
            and known.epochs.get(domain) != wanted
        }
        found = of.machine.lagging | frozenset(self._revived.get(domain, set()) - of.machine.owing)
        return found | (behind - self._on_their_way(of)) if behind else found

    def _on_their_way(self, of: _Of) -> frozenset[NodeId]:
        """Who prepared the epoch, and so only has to hear of its commit; unless its vault has gone back since."""
        prepared = {NodeId(_core.view(receipt)["signer"]) for receipt in of.committed.receipts}
        gone_back = {node for node in prepared if self._nodes.is_quarantined(node)}
        return frozenset(prepared - of.machine.lagging - gone_back)

    def waits_for(self, domain: DomainId) -> tuple[NodeId, ...]:
        return self._of[domain].machine.waits_for

    def without(self, domain: DomainId) -> tuple[NodeId, ...]:
        """Members that have not shown that they hold their share of the current epoch."""
        return self._of[domain].machine.late

    def needed(self, domain: DomainId) -> tuple[int, list[int]]:
        """Which commits must stay on record: all from the first one on, and of those before it the ones listed.

        A member that has a share of an earlier epoch believes a later one only if it can follow from commit to commit.
        One that was retired from the fleet never comes back: what it owes is only counted.
        """
        erased, earlier = self._erased.get(domain, {}), self._earlier.get(domain, {})
        awaited = [
            epoch
            for epoch, each in earlier.items()
            if any(
                erased.get(node, 0) <= epoch and not self._nodes.is_retired(node) for _, node in each.shards
            )
        ]
        return min([*awaited, self._of[domain].committed.epoch]), sorted(earlier)

    # Events.

    def node_changed(self, node: NodeId, domains: Domains) -> None:
        """It became live or silent (None), or said in which epochs of these domains it is."""
        live = self._nodes.is_live(node)
        if not live:
            for key in [key for key in self._shown if key[0] == node]:
                del self._shown[key]
        names = self._of.keys() if domains is None else domains & self._of.keys()
        for of in [self._of[name] for name in names]:
            if live != (node in of.machine.live):
                self._feed(of, NodeUp(node) if live else NodeDown(node))
            if live:
                self._notice_revived(of.committed.domain, node)
                self._lead_on(of, node)

    def _notice_revived(self, domain: DomainId, node: NodeId) -> None:
        """What it proved to have erased is there again: it owes the erasure once more (attack N89)."""
        erased = self._erased.get(domain, {})
        if any(epoch < erased.get(node, 0) for epoch in self._nodes.known[node].retired.get(domain, ())):
            _log.warning("%s has shards of %s again that it had erased", node, domain)
            del erased[node]
            self._revived.setdefault(domain, set()).add(node)

    def _lead_on(self, of: _Of, node: NodeId) -> None:
        """A node that is in an older epoch is shown all later ones, each proven by the one before; one that has said
        that it took this one up, and now knows of none (its disk went back), this one.
        """
        domain, current = of.committed.domain, of.committed.epoch
        known = self._nodes.known[node].epochs.get(domain)
        at = 0 if known is None else known[0]
        if at >= current or self._shown.get((node, domain)) == at or node not in of.machine.involved:
            return
        if known is None and node in of.machine.late:
            return  # it is on its way
        self._shown[node, domain] = at
        if known is None:
            for each in self._missed(of, node):
                self._send_commit(node, each)
            return
        self._fleet.spawn(self._show(node, domain, at, current))

    async def _show(self, node: NodeId, domain: DomainId, after: int, until: int) -> None:
        """The commits of the epochs above `after`, up to `until`, in order."""
        for row in await self._database.committed_after(domain.value, after):
            if row.epoch <= until:
                self._send_commit(node, committed(row))

    def _on_activated(self, sender: NodeId, fields: Fields) -> None:
        configuration, statements = bytes(fields[0]), fields[1]
        seen = _core.view(configuration)
        of = self._of.get(DomainId(seen["domain"]))
        if of is None or seen["hash"] != of.committed.hash:
            raise Dropped("no_plan", "of an epoch that is not current")
        receipts: dict[int, bytes] = {}
        for statement in statements:
            receipt = self._hsm.module.verify(statement)
            fits = receipt["label"] == _ACTIVATED and receipt["configuration"] == of.committed.hash
            if fits and receipt["signer"] == sender.value:
                receipts[receipt["index"]] = bytes(statement)
        if receipts.keys() >= {index for index, node in of.committed.shards if node == sender} and receipts:
            self._nodes.took_up(sender, of.committed.domain, of.committed.epoch, of.committed.hash)
        self._feed(of, settling.ActivatedCame(sender, receipts))

    async def _on_erased(self, sender: NodeId, fields: Fields) -> None:
        statement = bytes(fields[0])
        seen = self._hsm.module.verify(statement)
        domain, below = DomainId(seen["domain"]), int(seen["below"])
        of = self._of.get(domain)
        if seen["signer"] != sender.value or of is None:
            raise Dropped("not_authorized", "a node speaks for itself, of a domain that there is")
        if below > of.committed.epoch:
            raise Dropped("wrong_epoch", "of an epoch that is not committed")
        self._revived.get(domain, set()).discard(sender)
        if below > self._erased.get(domain, {}).get(sender, 0):
            await self._database.put_erasure(domain.value, sender.value, below, statement)
            await self._journal.note("erased", domain=domain.value, node=sender.value, below=below)
            self._erased.setdefault(domain, {})[sender] = below
            if self._prune(domain):
                self._on_gone(domain)
        if below == of.committed.epoch:
            self._feed(of, settling.ErasedCame(sender))

    def _prune(self, domain: DomainId) -> bool:
        """Forgets the committees of epochs that are gone everywhere; whether there was one."""
        debts, earlier = self.debts(domain), self._earlier.get(domain, {})
        gone = [epoch for epoch in earlier if debts[epoch] == 0]
        for epoch in gone:
            del earlier[epoch]
        return bool(gone)

    # The machines.

    def _feed(self, of: _Of, event: settling.Event) -> None:
        self._do(of, of.machine.handle(event, time.monotonic()))

    def _do(self, of: _Of, step: settling.Step) -> None:
        of.machine = step.state
        for action in step.do:
            match action:
                case settling.SendCommit(to):
                    for each in self._missed(of, to):
                        self._send_commit(to, each)
                case settling.SendErase(to, receipts):
                    self._post(to, "epoch/erase", list(receipts))
                case settling.TakenUp():
                    if not of.taken_up.done():
                        of.taken_up.set_result(None)
                case settling.Settled():
                    self._on_settled(of.committed.domain, of.committed.epoch)
        self._arm(of)

    def _missed(self, of: _Of, node: NodeId) -> list[Committed]:
        """The epoch; before it those not erased that the node has not said to know. It may have prepared one and missed
        its commit: with a later one alone it would take that share for what an aborted attempt left.
        """
        said = self._nodes.known.get(node)
        known = None if said is None else said.epochs.get(of.committed.domain)
        at = 0 if known is None else known[0]
        earlier = self._earlier.get(of.committed.domain, {})
        missed = [earlier[epoch] for epoch in sorted(earlier) if epoch > at]
        return [*(each for each in missed if node in dict(each.shards).values()), of.committed]

    def _arm(self, of: _Of) -> None:
        if of.wake is not None:
            of.wake.cancel()
            of.wake = None
        if (at := of.machine.wake) is not None:
            delay = max(0.001, at - time.monotonic())
            of.wake = self._loop.call_later(delay, self._feed, of, TimePassed())

    def _send_commit(self, to: NodeId, committed: Committed) -> None:
        receipts, dealings = list(committed.receipts), list(committed.dealings)
        self._post(to, "epoch/commit", committed.configuration, receipts, dealings)

    def _post(self, to: NodeId, kind: str, *fields: object) -> None:
        try:
            self._fleet.post(to, kind, *fields)
        except LinkDown as why:
            _log.info("%s could not be sent to %s, it gets it when it is back: %s", kind, to, why)


def seats(plan: dict[str, Any]) -> tuple[Shard, ...]:
    return tuple((seat["index"], NodeId(seat["node"])) for seat in plan["committee"])


def committed(row: AttemptRow) -> Committed:
    """A committed epoch out of its row."""
    assert row.configuration is not None
    configuration = bytes(row.configuration)
    seen = _core.view(configuration)
    plan = _core.view(seen["plan"])
    return Committed(
        DomainId(row.domain),
        row.epoch,
        seen["hash"],
        plan["threshold"],
        seats(plan),
        configuration,
        tuple(_core.decode(bytes(row.receipts))) if row.receipts is not None else (),
        tuple(_core.decode(bytes(row.dealings))) if row.dealings is not None else (),
        row.at or 0,
    )
