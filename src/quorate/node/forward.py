"""A client's request that this node cannot serve goes to a member that may, exactly as it was signed.

Here: which members are asked, in which order, for how long; and serving what other nodes forward.
Not here: verifying (the member does it again), and deciding that this node cannot serve (`backend`).

No loops: a forwarded request is served through `KmsApp.handle`, which never forwards.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from quorate import _core
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.ids import DomainId, NodeId
from quorate.kms.backend import KeyUnavailable
from quorate.kms.http import Response, SignedRequest
from quorate.wire.links import LinkDown

TOTAL_SECONDS = 1.6
"""From the first failure to serve to the client's answer, all members included."""
_AT_ONCE = 512
_UNAVAILABLE = b"KeyUnavailableException"


@dataclass(frozen=True, slots=True)
class Need:
    """What a request under way needs from a member, and until when (monotonic seconds)."""

    domain: DomainId
    deadline: float


need: ContextVar[Need | None] = ContextVar("need", default=None)
"""Set by the backend in the request's own task, before it says that it cannot serve."""


def candidates(
    own: NodeId, committee: Iterable[NodeId], live: frozenset[NodeId], start: int = 0
) -> list[NodeId]:
    """The members to ask, in order: live ones only, never this node, each once, the first one given by `start`."""
    able = sorted((set(committee) & live) - {own})
    if not able:
        return []
    first = start % len(able)
    return able[first:] + able[:first]


class Forwarder:
    """`members(domain)`: who may serve it. `serve`: `KmsApp.handle`."""

    def __init__(
        self,
        fleet: Fleet,
        members: Callable[[DomainId], Iterable[NodeId]],
        serve: Callable[[SignedRequest], Awaitable[Response]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._members = members
        self._serve = serve
        self._now = now
        self._waiting: dict[bytes, tuple[NodeId, asyncio.Future[Fields]]] = {}
        self._start = 0
        self._serving = 0

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("kms/forward", 5, self._on_forward, hub_only=False)
        dispatch.on("kms/answer", 4, self._on_answer, hub_only=False)

    def can_reach(self, domain: DomainId) -> bool:
        return bool(candidates(self._fleet.own, self._members(domain), self._fleet.up))

    async def forward(self, request: SignedRequest) -> Response:
        """Raises `KeyUnavailable` when no member serves it in time."""
        wanted = need.get()
        if wanted is None:
            raise KeyUnavailable
        self._start += 1
        members = candidates(self._fleet.own, self._members(wanted.domain), self._fleet.up, self._start)
        for member in members:
            left = wanted.deadline - self._now()
            if left <= 0:
                break
            response = await self._ask(member, request, left)
            if response is not None and not (response.status == 500 and _UNAVAILABLE in response.body):
                return response
        raise KeyUnavailable

    async def _ask(self, member: NodeId, request: SignedRequest, seconds: float) -> Response | None:
        """The member's answer; None when there is none in time."""
        token = secrets.token_bytes(16)
        answered: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()
        self._waiting[token] = (member, answered)
        headers = [[name, value] for name, value in request.headers]
        try:
            self._fleet.post(
                member, "kms/forward", token, request.method, request.target, headers, request.body
            )
            async with asyncio.timeout(seconds):
                _, status, given, body = await answered
        except (LinkDown, TimeoutError, _core.CoreError):
            return None
        finally:
            del self._waiting[token]
        return Response(int(status), tuple((bytes(n), bytes(v)) for n, v in given), bytes(body))

    def _on_answer(self, sender: NodeId, fields: Fields) -> None:
        member, answered = self._waiting.get(bytes(fields[0]), (None, None))
        if answered is None or answered.done() or member != sender:
            raise Dropped("no_forward", "an answer that nobody waits for")
        answered.set_result(fields)

    def _on_forward(self, sender: NodeId, fields: Fields) -> None:
        token, method, target, headers, body = fields
        if self._serving >= _AT_ONCE:
            raise Dropped("busy", "too many forwarded requests at once")
        given = tuple((bytes(name), bytes(value)) for name, value in headers)
        request = SignedRequest(str(method), bytes(target), given, bytes(body), peer=sender.value)
        self._serving += 1
        self._fleet.spawn(self._answer(sender, bytes(token), request))

    async def _answer(self, sender: NodeId, token: bytes, request: SignedRequest) -> None:
        try:
            response = await self._serve(request)
            headers = [[name, value] for name, value in response.headers]
            self._fleet.post(sender, "kms/answer", token, response.status, headers, response.body)
        except LinkDown:
            pass  # the other node gives its client an answer of its own
        finally:
            self._serving -= 1
