"""The holder's side of sessions: a grant comes, a shard leaves; the latency-critical path.

Here: what happens between a grant and its answer, in this order: the module checks, counts and seals; the
audit line is durable; the answer leaves. A grant for a session of this node's own is passed on besides.
Not here: any check. The module makes them all, and says so under its signature when it refuses.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

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
    """`on_own(domain, session, called)` hears of grants for sessions of this node's own, `on_use(domain)` of answers
    that have left.
    """

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        on_own: Callable[[DomainId, SessionId, Iterable[tuple[int, str]]], None],
        on_use: Callable[[DomainId], None],
    ) -> None:
        self._module = hsm.module
        self._fleet = fleet
        self._journal = journal
        self._on_own = on_own
        self._on_use = on_use
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
        answered = self._module.answer(grant)
        session, requester = SessionId(answered["session"]), NodeId(answered["requester"])
        for index, statement, refused in answered["given"]:
            if refused is None:
                self._hold(session)
                # Beside the link, so that its next grant does not wait for this one's disk.
                self._fleet.spawn(self._give(session, requester, answered, index, statement))
            else:
                self._journal.refused(session, DomainId(answered["domain"]), index, requester, refused)
                self._post(HUB, "session/refusal", statement)
                self._post(requester, "session/refusal", statement)
                if refused == "wrong_epoch":
                    self._show_commit(requester, answered["domain"], answered["epoch"])
        if requester == self._fleet.own:
            self._on_own(DomainId(answered["domain"]), session, answered["called"])

    async def _give(
        self, session: SessionId, requester: NodeId, answered: dict[str, Any], index: int, answer: bytes
    ) -> None:
        domain, epoch = DomainId(answered["domain"]), answered["epoch"]
        try:
            await self._journal.released(session, domain, epoch, index, requester)
        except StorageFailed as why:
            _log.critical("no shard leaves without its audit line: %s", why)
            return
        self._post(requester, "session/answer", answer)
        self._on_use(domain)

    def _show_commit(self, requester: NodeId, domain: str, epoch: int) -> None:
        """Who asks for an older epoch is shown that it is over, instead of a shard (attack N48)."""
        try:
            configuration, receipts, dealings = self._module.commit_certificate(domain)
        except _core.CoreError:  # this node is the one that is behind
            return
        if requester != self._fleet.own and _core.view(configuration)["epoch"] > epoch:
            self._post(requester, "epoch/commit", configuration, receipts, dealings)

    def _post(self, to: NodeId, kind: str, *fields: object) -> None:
        try:
            self._fleet.post(to, kind, *fields)
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
