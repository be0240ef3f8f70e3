"""Disputes carried out: the modules say what is a complaint and whom it convicts, the audit log keeps the evidence.

Here: which nodes are convicted, and what for.
Not here: the course of a dispute (`protocol/dispute`), the attempt that it ends (`epochs`), how changes go on without
the convicted (`changes`).

A conviction holds for all domains, for it is the module that lied, until the operator takes the node back, or replaces
it. It is in memory only: a hub that restarts finds out again at the price of one attempt.
"""

import logging

from quorate import _core
from quorate.host.dispatch import Dropped
from quorate.hsm import Hsm
from quorate.hub.journal import Journal
from quorate.ids import DomainId, NodeId
from quorate.protocol import dispute
from quorate.protocol.epoch_change import Dealt

_log = logging.getLogger(__name__)

_COMPLAINT = "quorate/v1/epoch/complaint"


class Disputes:
    """`convicted`: why, by node; proven convictions only."""

    def __init__(self, hsm: Hsm, journal: Journal) -> None:
        self._hsm = hsm
        self._journal = journal
        self.convicted: dict[NodeId, str] = {}

    def plan_of(self, complaint: bytes) -> bytes:
        seen = _core.view(complaint)
        if seen["label"] != _COMPLAINT:
            raise Dropped("wrong_kind", "this is no complaint")
        plan_hash: bytes = seen["plan"]
        return plan_hash

    def complaint(self, sender: NodeId, complaint: bytes, dealt: Dealt) -> dispute.ComplaintCame:
        """Of an attempt that is dealt. Raises `Dropped` or `CoreError` for one that its index did not sign."""
        seen = _core.view(complaint)
        if seen["signer"] != sender.value:
            raise Dropped("not_authorized", "a node speaks for itself")
        hashes = [_core.view(dealing)["hash"] for dealing in dealt.dealings]
        if seen["dealing"] not in hashes:
            raise Dropped("wrong_epoch", "of a dealing that this attempt has not")
        dealing = dealt.dealings[hashes.index(seen["dealing"])]
        accused = self._hsm.module.judge(dealt.configuration, dealing, complaint)["convicted"]
        case = dispute.Case(seen["hash"], complaint, dealing, sender, seen["index"], NodeId(accused))
        return dispute.ComplaintCame(seen["plan"], case)

    async def judge(self, configuration: bytes, case: dispute.Case, opening: bytes) -> dispute.Judged | None:
        judge = self._hsm.module.judge
        try:
            found = await self._hsm.slow(judge, configuration, case.dealing, case.complaint, opening)
        except _core.CoreError as why:
            _log.warning("%s did not answer a complaint: %s (%s)", case.dealer, why.message, why.code)
            return None
        verdict = dispute.Verdict(NodeId(found["convicted"]), found["reason"], found["proven"])
        return dispute.Judged(case.hash, verdict, opening)

    async def convict(
        self, domain: DomainId, epoch: int, case: dispute.Case, verdict: dispute.Verdict, opening: bytes
    ) -> None:
        seen = _core.view(case.complaint)
        await self._journal.note(
            "verdict",
            domain=domain.value,
            epoch=epoch,
            convicted=verdict.convicted.value,
            reason=verdict.reason,
            proven=verdict.proven,
            accuser=case.accuser.value,
            index=case.index,
            dealer=case.dealer.value,
            configuration=seen["configuration"].hex(),
            dealing=seen["dealing"].hex(),
            complaint=case.hash.hex(),
            opening=_core.view(opening)["hash"].hex() if opening else "",
        )
        if verdict.proven:
            self.convicted[verdict.convicted] = verdict.reason
            _log.error(
                "%s (epoch %d of %s): this is proven; it is left out of changes until it is replaced or pardoned",
                case.told(verdict),
                epoch,
                domain,
            )
        else:
            _log.error("%s (epoch %d of %s): this is not proven", case.told(verdict), epoch, domain)

    async def pardon(self, node: NodeId) -> bool:
        """The operator takes a node back; false when it was not convicted."""
        if node not in self.convicted:
            return False
        await self._journal.note("pardon", node=node.value, reason=self.convicted[node])
        del self.convicted[node]
        return True
