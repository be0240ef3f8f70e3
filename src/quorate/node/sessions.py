"""This node's own sessions and leases, carried out: `protocol/requester` and `protocol/lease` decide.

Here: timers, who waits for what, module calls and messages for the machines of every domain.
Not here: which holders are called (the hub), whether an answer is good (the module).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field

from quorate import _core
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.ids import DomainId, NodeId, SessionId
from quorate.node.journal import Journal
from quorate.protocol import requester
from quorate.protocol.lease import LeaseWatch
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)


class NoLease(Exception):
    """A session came to nothing. `why.code`: `hub_down`, `expired`, or the refusal's code."""

    def __init__(self, why: requester.Unavailable) -> None:
        super().__init__(why.detail)
        self.why = why


@dataclass(slots=True)
class _Domain:
    machine: requester.Requester
    watch: LeaseWatch | None = None
    wake: asyncio.TimerHandle | None = None
    renew: asyncio.TimerHandle | None = None
    waiting: dict[requester.Waiter, asyncio.Future[SessionId | None]] = field(default_factory=dict)


class Sessions:
    """`now` is monotonic, in seconds. `on_change` is called when a lease was got."""

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        on_change: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._module = hsm.module
        self._fleet = fleet
        self._journal = journal
        self._on_change = on_change
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._domains: dict[DomainId, _Domain] = {}
        self._of: dict[SessionId, DomainId] = {}
        self._next_waiter = 0

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("session/answer", 1, self._on_answer, hub_only=False)
        dispatch.on("session/refusal", 1, self._on_refusal, hub_only=False)
        dispatch.on("session/refused", 3, self._on_refused)

    @property
    def open_sessions(self) -> int:
        return len(self._of)

    async def lease(self, domain: DomainId) -> SessionId | None:
        """Gets a lease of `domain` in a session, shared with whoever needs one now. Raises `NoLease`.

        Returns the session within 1.6 s, or raises.
        """
        known = self._domain(domain)
        self._next_waiter += 1
        waiter = self._next_waiter
        known.waiting[waiter] = self._loop.create_future()
        try:
            self._feed(domain, requester.Needed(waiter))
            return await known.waiting[waiter]
        finally:
            known.waiting.pop(waiter, None)

    def used(self, domain: DomainId) -> None:
        """One use of the domain's lease was made; a renewal may begin."""
        known = self._domains.get(domain)
        if known is None or known.watch is None:
            return
        known.watch, due = known.watch.on_use(self._now())
        if due:
            self._feed(domain, requester.Needed(None))

    def granted(self, domain: DomainId, session: SessionId, called: Iterable[tuple[int, str]]) -> None:
        """A verified grant for a session of this node says whom the hub called."""
        self._feed(domain, requester.Granted(session, _called(called)))

    def forget_lease(self, domain: DomainId) -> None:
        """The lease was dropped in the module: it is not renewed."""
        known = self._domains.get(domain)
        if known is not None:
            self._watch(domain, known, None)

    def forget_leases(self) -> None:
        for domain in list(self._domains):
            self.forget_lease(domain)

    def epoch_changed(self, domain: DomainId) -> None:
        if domain in self._domains:
            self._feed(domain, requester.EpochChanged())

    def hub_lost(self) -> None:
        for domain in list(self._domains):
            self._feed(domain, requester.HubLost())

    # Messages.

    def _on_answer(self, sender: NodeId, fields: Fields) -> None:
        (answer,) = fields
        seen = _core.view(answer)
        session = SessionId(seen["session"])
        domain = self._of.get(session)
        if domain is None:
            raise Dropped("no_session", "an answer to a session that is over")
        self._feed(domain, requester.AnswerCame(session, sender, seen["index"], answer))

    def _on_refusal(self, sender: NodeId, fields: Fields) -> None:
        """The hub finds a substitute; this end only tells."""
        seen = _core.view(fields[0])
        _log.info("%s refused its shard %s of %s: %s", sender, seen["index"], seen["domain"], seen["reason"])

    def _on_refused(self, _sender: NodeId, fields: Fields) -> None:
        session, code, reason = SessionId(fields[0]), str(fields[1]), str(fields[2])
        domain = self._of.get(session)
        if domain is None:
            raise Dropped("no_session", "a refusal of a session that is over")
        self._feed(domain, requester.Refused(session, code, reason))

    # The machines.

    def _domain(self, domain: DomainId) -> _Domain:
        known = self._domains.get(domain)
        if known is None:
            known = self._domains[domain] = _Domain(requester.Requester(domain))
        return known

    def _feed(self, domain: DomainId, event: requester.Event) -> None:
        known = self._domain(domain)
        events = [event]
        while events:
            step = known.machine.handle(events.pop(0), self._now())
            known.machine = step.state
            for action in step.do:
                answer = self._do(domain, known, action)
                if answer is not None:
                    events.append(answer)
        self._arm(domain, known)

    def _do(self, domain: DomainId, known: _Domain, action: requester.Action) -> requester.Event | None:
        match action:
            case requester.Open():
                return self._open(domain)
            case requester.Receive(session, answer):
                return self._receive(session, answer)
            case requester.Abandon(session, outcome):
                return self._abandon(domain, session, outcome)
            case requester.Send(to, kind, body):
                return self._send(to, kind, body)
            case requester.Ended():
                self._ended(domain, known, action)
        return None

    def _open(self, domain: DomainId) -> requester.Event:
        try:
            session, request = self._module.open_session(domain.value)
        except _core.CoreError as why:
            return requester.OpeningFailed(why.code, why.message)
        opened = SessionId(session)
        self._of[opened] = domain
        return requester.Opened(opened, request)

    def _receive(self, session: SessionId, answer: bytes) -> requester.Event:
        try:
            got = self._module.receive(answer)
        except _core.CoreError as why:
            _log.warning("an answer was not taken: %s (%s)", why.message, why.code)
            culprits = tuple(NodeId(name) for name in why.culprits)
            return requester.AnswerRejected(session, why.code, culprits)
        culprit_shards = _called(got["culprits"])
        for index, node in culprit_shards:
            _log.error("shard %d of %s did not open its commitment", index, node)
        return requester.Received(session, got["have"], got["need"], culprit_shards, got["closed"])

    def _abandon(self, domain: DomainId, session: SessionId, outcome: str) -> requester.Event | None:
        self._of.pop(session, None)
        self._journal.session(session, domain, outcome, [])
        try:
            return requester.Abandoned(session, self._module.abandon(session.value, outcome))
        except _core.CoreError as why:  # it ended in the module before
            _log.debug("nothing to abandon: %s", why.message)
            return None

    def _send(self, to: NodeId, kind: str, body: tuple[object, ...]) -> requester.Event | None:
        try:
            self._fleet.post(to, kind, *body)
        except (LinkDown, _core.CoreError) as why:
            if kind == "session/request":
                return requester.HubLost()
            _log.info("%s could not be sent to %s: %s", kind, to, why)
        return None

    def _ended(self, domain: DomainId, known: _Domain, ended: requester.Ended) -> None:
        if ended.session is not None:
            self._of.pop(ended.session, None)
        if ended.failure is None:
            assert ended.session is not None
            blamed = [f"{index}:{node}" for index, node in ended.culprits]
            self._journal.session(ended.session, domain, "combined", blamed)
            lease = self._module.lease(domain.value)
            began = None if lease is None else LeaseWatch(self._now(), float(lease["seconds"]), lease["uses"])
            self._watch(domain, known, began)
            self._on_change()
        else:
            _log.warning("no lease of %s: %s (%s)", domain, ended.failure.detail, ended.failure.code)
            if known.watch is not None:
                self._watch(domain, known, known.watch.on_failure(self._now()))
        for waiter in ended.waiters:
            future = known.waiting.get(waiter)
            if future is None or future.done():
                continue
            if ended.failure is None:
                future.set_result(ended.session)
            else:
                future.set_exception(NoLease(ended.failure))

    # Timers.

    def _arm(self, domain: DomainId, known: _Domain) -> None:
        if known.wake is not None:
            known.wake.cancel()
            known.wake = None
        if (at := known.machine.wake) is not None:
            delay = max(0.0, at - self._now())
            known.wake = self._loop.call_later(delay, self._feed, domain, requester.TimePassed())

    def _watch(self, domain: DomainId, known: _Domain, watch: LeaseWatch | None) -> None:
        known.watch = watch
        if known.renew is not None:
            known.renew.cancel()
            known.renew = None
        if watch is not None and not watch.is_over(self._now()):
            delay = max(0.0, watch.wake - self._now())
            # Not in the context of the request that happened to bring the lease: renewing it is nobody's request.
            known.renew = self._loop.call_later(delay, self._renew, domain, context=Context())

    def _renew(self, domain: DomainId) -> None:
        known = self._domain(domain)
        known.renew = None
        if known.watch is None:
            return
        known.watch, due = known.watch.on_time(self._now())
        if due:
            self._feed(domain, requester.Needed(None))


def _called(listed: Iterable[tuple[int, str]]) -> tuple[requester.Called, ...]:
    return tuple((index, NodeId(node)) for index, node in listed)
