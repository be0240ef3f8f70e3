"""Sessions carried out: `protocol/session` decides, the module signs grants, the audit log has them first.

Here: the machine's events and actions as messages, its timer, the last sessions for people to look at.
Not here: any decision.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from quorate import _core
from quorate.errors import StorageFailed
from quorate.host.dispatch import Dispatch, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.hub.journal import Journal
from quorate.ids import DomainId, Instant, NodeId, SessionId
from quorate.protocol import session_events as session
from quorate.protocol.quorum import Shard
from quorate.protocol.session import Sessions as Machine
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

_SHOWN = 500
"""Sessions kept for `GET /v1/sessions`."""


@dataclass(slots=True)
class Shown:
    """A session as people see it; times in milliseconds since its request."""

    session: SessionId
    domain: DomainId
    requester: NodeId
    at: float
    called: dict[int, NodeId] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)
    refused: tuple[tuple[int, NodeId, str], ...] = ()
    culprits: tuple[Shard, ...] = ()
    outcome: str = "open"
    reason: str = ""
    ms: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "session": str(self.session),
            "domain": self.domain.value,
            "requester": self.requester.value,
            "at": self.at,
            "called": [
                {"index": index, "node": node.value, "ms": self.answered.get(index)}
                for index, node in self.called.items()
            ],
            "refused": [
                {"index": index, "node": node.value, "reason": why} for index, node, why in self.refused
            ],
            "culprits": [{"index": index, "node": node.value} for index, node in self.culprits],
            "outcome": self.outcome,
            "reason": self.reason,
            "ms": self.ms,
        }


class Sessions:
    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        term: int,
        now: Callable[[], Instant] = time.monotonic,
    ) -> None:
        self._module = hsm.module
        self._fleet = fleet
        self._journal = journal
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._machine = Machine(term)
        self._wake: asyncio.TimerHandle | None = None
        self._shown: deque[Shown] = deque(maxlen=_SHOWN)
        self._by_id: dict[SessionId, Shown] = {}

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("session/request", 1, self._on_request, hub_only=False)
        dispatch.on("session/refusal", 1, self._on_refusal, hub_only=False)
        dispatch.on("session/culprits", 2, self._on_culprits, hub_only=False)
        dispatch.on("session/ended", 2, self._on_ended, hub_only=False)

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self._machine.dropped)

    def live(self, domain: DomainId) -> int:
        return self._machine.live(domain)

    def last(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        return [shown.as_json() for shown, _ in zip(reversed(self._shown), range(limit), strict=False)]

    def feed(self, event: session.Event) -> None:
        actions = self._machine.handle(event, self._now())
        for action in actions:
            self._do(action)
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if (at := self._machine.wake) is not None:
            delay = max(0.001, at - self._now())
            self._wake = self._loop.call_later(delay, self.feed, session.TimePassed())

    # Messages. Every statement is verified by the module before the machine hears of it.

    def _on_request(self, _sender: NodeId, fields: Fields) -> None:
        (request,) = fields
        seen = self._module.verify(request)
        id_, domain, requester = SessionId(seen["session"]), DomainId(seen["domain"]), NodeId(seen["signer"])
        self._show(Shown(id_, domain, requester, time.time()))
        self.feed(
            session.RequestCame(requester, id_, domain, seen["epoch"], seen["configuration"], bytes(request))
        )

    def _on_refusal(self, _sender: NodeId, fields: Fields) -> None:
        seen = self._module.verify(fields[0])
        self.feed(
            session.RefusalCame(
                NodeId(seen["signer"]),
                SessionId(seen["session"]),
                DomainId(seen["domain"]),
                seen["index"],
                seen["reason"],
                (seen["term"], seen["fence"]),
            )
        )

    def _on_culprits(self, sender: NodeId, fields: Fields) -> None:
        culprits = tuple((int(index), NodeId(node)) for index, node in fields[1])
        self.feed(session.CulpritsCame(sender, SessionId(fields[0]), culprits))

    def _on_ended(self, _sender: NodeId, fields: Fields) -> None:
        seen = self._module.verify(fields[0])
        id_, signer = SessionId(seen["session"]), NodeId(seen["signer"])
        answered = tuple((int(index), int(micros) / 1e6) for index, micros in fields[1])
        shown = self._by_id.get(id_)
        if shown is not None and shown.requester == signer:
            shown.answered = {index: round(1000 * seconds, 3) for index, seconds in answered}
        self.feed(session.ClosedCame(signer, id_, seen["outcome"], tuple(seen["culprits"]), answered))

    # Actions.

    def _do(self, action: session.Action) -> None:
        match action:
            case session.Grant():
                self._grant(action)
            case session.Refuse(id_, requester, code, reason):
                self._post(requester, "session/refused", id_.value, code, reason)
            case session.Ended():
                self._ended(action)

    def _grant(self, grant: session.Grant) -> None:
        shown = self._by_id.get(grant.session)
        if shown is not None:
            shown.called.update({index: node for index, node, _ in grant.calls})
        called = [(index, node.value, fence) for index, node, fence in grant.calls]
        try:
            statement = self._module.grant(grant.request, called)
        except _core.CoreError as why:  # its requester left the roster meanwhile: the session expires
            _log.warning("session %s is not granted: %s (%s)", grant.session, why.message, why.code)
            return
        self._fleet.spawn(self._send_grant(grant, statement))

    async def _send_grant(self, grant: session.Grant, statement: bytes) -> None:
        try:
            await self._journal.granted(grant)
        except StorageFailed:
            return  # nothing is granted without its line; the log's failure ends the process
        called = sorted({node for _, node, _ in grant.calls} - {grant.requester})
        for node in (*called, grant.requester):  # the farthest first
            if not self._post(node, "session/grant", statement):
                self.feed(session.NodeDown(node))

    def _ended(self, end: session.Ended) -> None:
        shown = self._by_id.get(end.session)
        if shown is not None:
            shown.outcome, shown.reason = end.outcome, end.reason
            shown.refused, shown.culprits = end.refused, end.culprits
            shown.ms = round(1000 * end.seconds, 3)
        self._fleet.spawn(self._note_end(end))

    async def _note_end(self, end: session.Ended) -> None:
        try:
            await self._journal.ended(end)
        except StorageFailed:
            return  # the log's failure ends the process

    def _post(self, to: NodeId, kind: str, *fields: object) -> bool:
        try:
            self._fleet.post(to, kind, *fields)
        except (LinkDown, _core.CoreError):
            return False
        return True

    def _show(self, shown: Shown) -> None:
        if shown.session in self._by_id:
            return
        if len(self._shown) == _SHOWN:
            self._by_id.pop(self._shown[0].session, None)
        self._shown.append(shown)
        self._by_id[shown.session] = shown
