"""The member's side of epoch changes (docs/protocols/messages.md, "Epochs").

Here: one module call for each message of the hub, one answer to the hub for each result, and repeats: a plan
that comes again is answered with the same keys, because its number is burnt; what a module complained of is said again,
because its keys are used up.
Not here: whether a plan, a dealing or a certificate is good. The module decides, and enforces it durably.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quorate.ids import HUB, DomainId, NodeId

Sealed = tuple[int, int, bytes]
"""(own index, position of the dealer, sub-share)."""

Made = tuple[bytes, tuple[bytes, ...]]
"""A dealing, and its sealed sub-shares."""

# Events: the hub's messages, and the module's answers.


@dataclass(frozen=True, slots=True)
class PlanCame:
    domain: DomainId
    plan_hash: bytes
    plan: bytes
    charter: bytes


@dataclass(frozen=True, slots=True)
class DealCame:
    plan_hash: bytes
    plan: bytes
    charter: bytes
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PrepareCame:
    plan_hash: bytes
    configuration: bytes
    dealings: tuple[bytes, ...]
    sealed: tuple[Sealed, ...]


@dataclass(frozen=True, slots=True)
class DisputeCame:
    plan_hash: bytes
    configuration: bytes
    complaint: bytes


@dataclass(frozen=True, slots=True)
class CommitCame:
    plan_hash: bytes
    configuration: bytes
    receipts: tuple[bytes, ...]
    dealings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EraseCame:
    receipts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AbortCame:
    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class KeysMade:
    domain: DomainId
    plan_hash: bytes
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DealingsMade:
    plan_hash: bytes
    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    receipts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Complained:
    """In place of receipts: signed, about each sub-share that is wrong."""

    plan_hash: bytes
    complaints: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    opening: bytes


@dataclass(frozen=True, slots=True)
class Activated:
    """`receipts`: none where this node has no share of the epoch."""

    configuration: bytes
    receipts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Erased:
    statement: bytes


@dataclass(frozen=True, slots=True)
class ModuleRefused:
    plan_hash: bytes
    code: str
    reason: str


Event = (
    PlanCame
    | DealCame
    | PrepareCame
    | DisputeCame
    | CommitCame
    | EraseCame
    | AbortCame
    | KeysMade
    | DealingsMade
    | Prepared
    | Complained
    | Opened
    | Activated
    | Erased
    | ModuleRefused
)

# What to do.


@dataclass(frozen=True, slots=True)
class AcceptPlan:
    """Comes back as `KeysMade` or `ModuleRefused`."""

    domain: DomainId
    plan_hash: bytes
    plan: bytes
    charter: bytes


@dataclass(frozen=True, slots=True)
class Deal:
    """Comes back as `DealingsMade` or `ModuleRefused`."""

    plan_hash: bytes
    plan: bytes
    charter: bytes
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Comes back as `Prepared`, `Complained` or `ModuleRefused`."""

    plan_hash: bytes
    configuration: bytes
    dealings: tuple[bytes, ...]
    sealed: tuple[Sealed, ...]


@dataclass(frozen=True, slots=True)
class Open:
    """Comes back as `Opened`, or not at all: the hub waits for a while only."""

    plan_hash: bytes
    configuration: bytes
    complaint: bytes


@dataclass(frozen=True, slots=True)
class Activate:
    """Comes back as `Activated`, or not at all: a refused certificate changes nothing."""

    plan_hash: bytes
    configuration: bytes
    receipts: tuple[bytes, ...]
    dealings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Erase:
    """Comes back as `Erased`, or not at all: a refused certificate is the hub's to mend."""

    receipts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """The module erases what it made for the plan."""

    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class Send:
    to: NodeId
    kind: str
    body: tuple[object, ...]


Action = AcceptPlan | Deal | Prepare | Open | Activate | Erase | Forget | Send


@dataclass(frozen=True, slots=True)
class OpenPlan:
    plan_hash: bytes
    keys: tuple[bytes, ...]
    complaints: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """`open`: the plan under way of each domain; a later plan of the domain replaces it."""

    open: Mapping[DomainId, OpenPlan] = field(default_factory=dict)

    def handle(self, event: Event) -> "Step":
        match event:
            case PlanCame(domain, plan_hash, plan, charter):
                known = self.open.get(domain)
                if known is not None and known.plan_hash == plan_hash:
                    return Step(self, (_keys(known),))
                return Step(self, (AcceptPlan(domain, plan_hash, plan, charter),))
            case KeysMade(domain, plan_hash, keys):
                opened = OpenPlan(plan_hash, keys)
                return Step(replace(self, open={**self.open, domain: opened}), (_keys(opened),))
            case DealCame(plan_hash, plan, charter, keys):
                return Step(self, (Deal(plan_hash, plan, charter, keys),))
            case DealingsMade(plan_hash, made):
                dealings = [[dealing, list(sealed)] for dealing, sealed in made]
                return Step(self, (Send(HUB, "epoch/dealings", (plan_hash, dealings)),))
            case PrepareCame(plan_hash) if complaints := self._complaints(plan_hash):
                return Step(self, (_complaints(complaints),))
            case PrepareCame(plan_hash, configuration, dealings, sealed):
                return Step(self, (Prepare(plan_hash, configuration, dealings, sealed),))
            case Prepared(receipts):
                return Step(self, (Send(HUB, "epoch/prepared", (list(receipts),)),))
            case Complained(plan_hash, complaints):
                told = {
                    domain: replace(plan, complaints=complaints) if plan.plan_hash == plan_hash else plan
                    for domain, plan in self.open.items()
                }
                return Step(replace(self, open=told), (_complaints(complaints),))
            case DisputeCame(plan_hash, configuration, complaint):
                return Step(self, (Open(plan_hash, configuration, complaint),))
            case Opened(opening):
                return Step(self, (Send(HUB, "epoch/opening", (opening,)),))
            case CommitCame(plan_hash, configuration, receipts, dealings):
                return Step(self, (Activate(plan_hash, configuration, receipts, dealings),))
            case Activated(configuration, receipts):
                return Step(self, (Send(HUB, "epoch/activated", (configuration, list(receipts))),))
            case EraseCame(receipts):
                return Step(self, (Erase(receipts),))
            case Erased(statement):
                return Step(self, (Send(HUB, "epoch/erased", (statement,)),))
            case AbortCame(plan_hash):
                return Step(self._without(plan_hash), (Forget(plan_hash),))
            case ModuleRefused(plan_hash, code, reason):
                return Step(self, (Send(HUB, "epoch/refused", (plan_hash, code, reason, [])),))

    def _complaints(self, plan_hash: bytes) -> tuple[bytes, ...]:
        return next((plan.complaints for plan in self.open.values() if plan.plan_hash == plan_hash), ())

    def _without(self, plan_hash: bytes) -> "Member":
        kept = {domain: plan for domain, plan in self.open.items() if plan.plan_hash != plan_hash}
        return replace(self, open=kept)


def _complaints(complaints: tuple[bytes, ...]) -> Send:
    return Send(HUB, "epoch/complaint", (list(complaints),))


def _keys(plan: OpenPlan) -> Send:
    return Send(HUB, "epoch/plan-keys", (plan.plan_hash, list(plan.keys)))


@dataclass(frozen=True, slots=True)
class Step:
    """The machine's next state, and what to do, in order."""

    state: Member
    do: tuple[Action, ...] = ()
