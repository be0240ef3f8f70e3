"""Disputes over a sub-share at the hub (docs/protocols/epoch-change.md, "Disputes").

Here: the cases of one attempt, from a complaint to a verdict; what is asked of whom.
Not here: whether a complaint is one and whom an opening convicts (the modules), what becomes of the attempt
(`epoch_change`), what a conviction leads to (the hub).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quorate.ids import NodeId

DISPUTE_SECONDS = 2.0
"""How long dealers may take to open what they dealt."""
SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Proven, or else the dealer only kept silent, for which there are other reasons than a bad conscience."""

    convicted: NodeId
    reason: str
    proven: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A complaint that is one: `accuser` signed it about what `dealer` dealt to its index. `hash`: the complaint's."""

    hash: bytes
    complaint: bytes
    dealing: bytes
    accuser: NodeId
    index: int
    dealer: NodeId

    def told(self, verdict: Verdict) -> str:
        if verdict.convicted == self.accuser:
            return f"{self.accuser} complained falsely of {self.dealer}"
        what = "dealt a wrong sub-share" if verdict.proven else "did not open what it dealt"
        return f"{self.dealer} {what} to {self.accuser}"


# Events.


@dataclass(frozen=True, slots=True)
class ComplaintCame:
    plan_hash: bytes
    case: Case


@dataclass(frozen=True, slots=True)
class OpeningCame:
    """`complaint`: the hash of what it answers."""

    sender: NodeId
    plan_hash: bytes
    complaint: bytes
    opening: bytes


@dataclass(frozen=True, slots=True)
class Judged:
    complaint: bytes
    verdict: Verdict
    opening: bytes


# What to do.


@dataclass(frozen=True, slots=True)
class SendDispute:
    to: NodeId
    complaint: bytes


@dataclass(frozen=True, slots=True)
class Judge:
    """Have the hub's module judge; comes back as `Judged`, or not at all where the opening is no answer."""

    case: Case
    opening: bytes


@dataclass(frozen=True, slots=True)
class Convict:
    """Put the verdict on record, with its evidence; `opening`: empty where none came."""

    case: Case
    verdict: Verdict
    opening: bytes = b""


@dataclass(frozen=True, slots=True)
class Disputes:
    """The cases of one attempt by their complaints' hashes, and the verdicts so far."""

    cases: Mapping[bytes, Case] = field(default_factory=dict)
    verdicts: Mapping[bytes, Verdict] = field(default_factory=dict)

    @property
    def waits_for(self) -> tuple[NodeId, ...]:
        return tuple(sorted({case.dealer for case in self._undecided}))

    @property
    def _undecided(self) -> tuple[Case, ...]:
        return tuple(case for hash_, case in self.cases.items() if hash_ not in self.verdicts)

    @property
    def reason(self) -> str:
        return "; ".join(self.cases[hash_].told(verdict) for hash_, verdict in self.verdicts.items())

    @property
    def culprits(self) -> tuple[str, ...]:
        return tuple(sorted({v.convicted.value for v in self.verdicts.values() if v.proven}))

    def complained(self, case: Case) -> "tuple[Disputes, tuple[SendDispute, ...]]":
        """One index complains once of one dealing."""
        if any((case.index, case.dealing) == (known.index, known.dealing) for known in self.cases.values()):
            return self, ()
        after = replace(self, cases={**self.cases, case.hash: case})
        return after, (SendDispute(case.dealer, case.complaint),)

    def back(self, node: NodeId) -> tuple[SendDispute, ...]:
        return tuple(SendDispute(node, case.complaint) for case in self._undecided if case.dealer == node)

    def opened(self, came: OpeningCame) -> tuple[Judge, ...]:
        case = self.cases.get(came.complaint)
        if case is None or case.dealer != came.sender or came.complaint in self.verdicts:
            return ()
        return (Judge(case, came.opening),)

    def judged(self, came: Judged) -> "tuple[Disputes, tuple[Convict, ...]]":
        if came.complaint in self.verdicts:
            return self, ()
        after = replace(self, verdicts={**self.verdicts, came.complaint: came.verdict})
        return after, (Convict(self.cases[came.complaint], came.verdict, came.opening),)

    def too_late(self) -> "tuple[Disputes, tuple[Convict, ...]]":
        """Who has not answered by now has kept silent."""
        silent = {case.hash: Verdict(case.dealer, SILENT, proven=False) for case in self._undecided}
        after = replace(self, verdicts={**self.verdicts, **silent})
        return after, tuple(Convict(self.cases[hash_], verdict) for hash_, verdict in silent.items())
