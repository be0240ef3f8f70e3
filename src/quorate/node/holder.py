"""The holder's side of sessions: a grant comes, a shard leaves; the latency-critical path.

Here: what happens between a grant and its answer, in this order: the module checks, counts and seals; the
audit line is durable; the answer leaves.
Not here: any check. The module makes them all, and says so under its signature when it refuses.
"""

import asyncio
import logging
from collections.abc import Sequence

from quorate import _core
from quorate.errors import StorageFailed
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.ids import HUB, DomainId, NodeId, SessionId
from quorate.node.journal import Journal
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

_SLOT_SECONDS = 1.2
"""How long a shard's slot is held when its requester says nothing more."""


class Holder:
    def __init__(self, hsm: Hsm, fleet: Fleet, journal: Journal) -> None:
        self._module = hsm.module
        self._fleet = fleet
        self._journal = journal
        self._open: dict[SessionId, asyncio.TimerHandle] = {}

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("session/grant", 1, self._on_grant)
        dispatch.on("session/closed", 1, self._on_closed, hub_only=False)

    @property
    def open_sessions(self) -> int:
        """Sessions that hold a slot here."""
        return len(self._open)

    def _on_grant(self, _sender: NodeId, fields: Fields) -> None:
        (grant,) = fields
        answers = self._module.answer(grant)
        request = _core.view(_core.view(grant)["request"])
        session, requester = SessionId(request["session"]), NodeId(request["signer"])
        self._hold(session)
        # Beside the link, so that its next grant does not wait for this one's disk.
        self._fleet.spawn(self._give(session, requester, answers))

    async def _give(
        self, session: SessionId, requester: NodeId, answers: Sequence[tuple[str, bytes]]
    ) -> None:
        for kind, statement in answers:
            seen = _core.view(statement)
            domain, index = DomainId(seen["domain"]), int(seen["index"])
            if kind == "refusal":
                self._journal.refused(session, domain, index, requester, seen["reason"])
                self._post(HUB, "session/refusal", statement)
                self._post(requester, "session/refusal", statement)
                continue
            try:
                await self._journal.released(session, domain, int(seen["epoch"]), index, requester)
            except StorageFailed as why:
                _log.critical("no shard leaves without its audit line: %s", why)
                return
            self._post(requester, "session/answer", statement)

    def _post(self, to: NodeId, kind: str, statement: bytes) -> None:
        try:
            self._fleet.post(to, kind, statement)
        except (LinkDown, _core.CoreError) as why:
            _log.warning("%s could not be sent: %s", kind, why)

    def _on_closed(self, sender: NodeId, fields: Fields) -> None:
        (closed,) = fields
        seen = _core.view(closed)
        if seen["signer"] != sender.value:
            raise Dropped("not_authorized", "only its requester closes a session")
        self._module.close_session(closed)
        self._free(SessionId(seen["session"]))

    def _hold(self, session: SessionId) -> None:
        self._free(session)
        timer = asyncio.get_running_loop().call_later(_SLOT_SECONDS, self._free, session)
        self._open[session] = timer

    def _free(self, session: SessionId) -> None:
        timer = self._open.pop(session, None)
        if timer is not None:
            timer.cancel()
