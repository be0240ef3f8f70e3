"""The hub's audit lines, by what happened.

Here: which event has which members. Not here: the chain and the disk (`audit/append`).
"""

from quorate.audit.append import AuditLog, Value
from quorate.ids import DomainId, NodeId
from quorate.protocol import session_events as session

MAX_REASON = 512


class Journal:
    """Every method returns once its line is durable, and raises `StorageFailed` when it cannot be."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def note(self, event: str, **members: Value) -> None:
        await self._log.append({"event": event, **members})

    async def granted(self, grant: session.Grant) -> None:
        await self._log.append(
            {
                "event": "granted",
                "session": str(grant.session),
                "domain": grant.domain.value,
                "requester": grant.requester.value,
                "called": [f"{index}:{node}" for index, node, _ in grant.calls],
                "fences": [f"{term}.{number}" for _, _, (term, number) in grant.calls],
            }
        )

    async def ended(self, end: session.Ended) -> None:
        await self.note(
            "session",
            session=str(end.session),
            domain=end.domain.value,
            requester=end.requester.value,
            outcome=end.outcome,
            reason=end.reason[:MAX_REASON],
            called=_shards(end.called),
            refused=[f"{index}:{node}:{why}" for index, node, why in end.refused],
            culprits=_shards(end.culprits),
            milliseconds=round(1000 * end.seconds, 3),
        )

    async def epoch(self, domain: DomainId, epoch: int, phase: str, reason: str = "") -> None:
        await self.note("epoch", domain=domain.value, epoch=epoch, phase=phase, reason=reason[:MAX_REASON])


def _shards(shards: tuple[tuple[int, NodeId], ...]) -> list[str]:
    return [f"{index}:{node}" for index, node in shards]
