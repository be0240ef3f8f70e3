"""What the hub's machine for sessions hears, and what it has done.

Here: events and actions as values. Not here: what follows from an event (`session`).
"""

from dataclasses import dataclass

from quorate.ids import DomainId, NodeId, SessionId
from quorate.protocol.fences import Fence
from quorate.protocol.quorum import Shard

Calls = tuple[tuple[int, NodeId, Fence], ...]
"""(index, node, fence)."""


# Events. Their fields are verified: a sender is who signed.


@dataclass(frozen=True, slots=True)
class DomainIs:
    """The epoch that is committed."""

    domain: DomainId
    epoch: int
    configuration: bytes
    threshold: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A node is live, or something about it changed. `ready`: domains whose current epoch it holds."""

    node: NodeId
    zone: str
    open_sessions: int
    ready: frozenset[DomainId]


@dataclass(frozen=True, slots=True)
class NodeDown:
    node: NodeId


@dataclass(frozen=True, slots=True)
class RequestCame:
    sender: NodeId
    session: SessionId
    domain: DomainId
    epoch: int
    configuration: bytes
    request: bytes


@dataclass(frozen=True, slots=True)
class RefusalCame:
    """A holder's module refused; `fence` is the highest that it has seen for the shard."""

    sender: NodeId
    session: SessionId
    domain: DomainId
    index: int
    reason: str
    fence: Fence


@dataclass(frozen=True, slots=True)
class CulpritsCame:
    """The requester has no use for these answers and asks for others."""

    sender: NodeId
    session: SessionId
    culprits: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class ClosedCame:
    """The requester's last word. `answered`: when each answer came, in seconds since it asked; advice, not
    proof.
    """

    sender: NodeId
    session: SessionId
    outcome: str
    culprits: tuple[int, ...]
    answered: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TimePassed:
    pass


Event = DomainIs | NodeUp | NodeDown | RequestCame | RefusalCame | CulpritsCame | ClosedCame | TimePassed

# What to do, in order.


@dataclass(frozen=True, slots=True)
class Grant:
    """Have the module sign a grant; send it to every node in `calls`, and to the requester."""

    session: SessionId
    domain: DomainId
    requester: NodeId
    request: bytes
    calls: Calls


@dataclass(frozen=True, slots=True)
class Refuse:
    session: SessionId
    requester: NodeId
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A session's end, for the audit log and for people."""

    session: SessionId
    domain: DomainId
    requester: NodeId
    outcome: str
    reason: str
    called: tuple[Shard, ...]
    refused: tuple[tuple[int, NodeId, str], ...]
    culprits: tuple[Shard, ...]
    seconds: float


Action = Grant | Refuse | Ended
