"""The KMS endpoint: verify the signature, run, audit, answer; in that order.

One route is unsigned: GET /healthz answers 200 while the node can serve or forward, else 503, and says
nothing more. Everything else passes the one verifier first, whatever its method and path (attack N71).

Here: the order of things, and the promise that no answer leaves before its audit line is durable.
Not here: HTTP and TLS (`connection`), operations, the wire formats (protocols.py).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

from quorate import logs
from quorate.kms import errors
from quorate.kms.backend import (
    AuditRecord,
    Backend,
    BackendError,
    Call,
    CannotServe,
    Phase,
    Role,
    SignatureChecker,
)
from quorate.kms.http import Response, SignedRequest
from quorate.kms.operation import Context, Operation, Settings
from quorate.kms.protocols import WireProtocol, protocol_of
from quorate.kms.refusals import RefusalLimiter
from quorate.kms.replay import ReplayGuard
from quorate.kms.sigv4 import Verified, Verifier

_GUARDED_MAX = (
    1_000_000  # signatures of one kind remembered: 80 MB at most, 1,600 calls a second at the widest skew
)
_UNKNOWN = "Unknown"

log = logging.getLogger(__name__)


class KmsApp:
    """`wall_clock` returns seconds since 1970. One instance serves one event loop."""

    def __init__(
        self, backend: Backend, checker: SignatureChecker, settings: Settings, wall_clock: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._arn_prefix = settings.arn_prefix
        self._now = wall_clock
        self._verifier = Verifier(checker, settings.region, wall_clock)
        # Two memories, so that data keys made in bulk never keep an administrator from changing something.
        self._changes = ReplayGuard(_GUARDED_MAX)
        self._data_keys = ReplayGuard(_GUARDED_MAX)
        self._refusals = RefusalLimiter(wall_clock)

    async def respond(self, request: SignedRequest) -> Response:
        """Answers a client's own request."""
        if request.target == b"/healthz" and request.method == "GET":
            return await self._health()
        return await self._respond(request, True)

    async def refuse(self, request: SignedRequest, error: errors.KmsError) -> Response:
        """Answers a request whose body was not read, and whose sender is therefore nobody we know."""
        return await self._refuse(protocol_of(request), error, _new_request_id(), request.peer)

    async def handle(self, request: SignedRequest) -> Response:
        """Serves a request that another node forwarded as it was signed: verified again, never forwarded
        again.
        """
        return await self._respond(request, False)

    async def _respond(self, request: SignedRequest, may_forward: bool) -> Response:
        request_id = _new_request_id()
        protocol = protocol_of(request)
        try:
            verified = await self._verifier.verify(request, protocol.service)
        except Exception as error:
            explained = self._explain(error, request_id)
            return await self._refuse(protocol, explained, request_id, request.peer)
        call = Call(request_id, verified.identity, _UNKNOWN, verified.once)
        try:
            answer, outcome = await self._serve(protocol, request, call, verified, may_forward)
        except Exception as error:
            explained = self._explain(error, request_id)
            answer, outcome = protocol.failure(explained, request_id), explained.code
            _tell(call.operation, explained)
        try:
            await self._backend.audit(_line(call, Phase.OUTCOME, outcome, request.peer))
        except Exception as error:
            self._log(error)
            return protocol.failure(errors.audit_failed(), request_id)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: %s", call.operation, outcome)
        return answer

    async def _serve(
        self,
        protocol: WireProtocol,
        request: SignedRequest,
        call: Call,
        verified: Verified,
        may_forward: bool,
    ) -> tuple[Response, str]:
        """The answer, and the outcome for the audit line."""
        operation = protocol.operation(request)
        call.operation = operation.name
        try:
            members = await self._run(operation, request, call, verified)
        except CannotServe:
            if not may_forward:
                raise
            answer = await self._backend.forward(request)
            call.request_id = _request_id(answer) or call.request_id
            log.debug("a member answers as request %s, which the client sees", call.request_id)
            return answer, "Forwarded"
        return protocol.success(operation, members, call.request_id), "OK"

    async def _run(
        self, operation: Operation, request: SignedRequest, call: Call, verified: Verified
    ) -> dict[str, Any] | None:
        if operation.admin and call.identity.role is not Role.ADMIN:
            raise errors.access_denied(
                self._settings.account, call.identity.name, operation.name, call.identity.role
            )
        parsed = operation.read(request.body)
        now = self._now()
        if operation.once:
            guard = self._changes if operation.changes_state else self._data_keys
            guard.admit(verified.once, verified.signed_at, now)

        async def intend() -> None:
            try:
                await self._backend.audit(_line(call, Phase.INTENT, "", request.peer))
            except Exception as error:
                self._log(error)
                raise errors.audit_failed() from None

        context = Context(self._backend, self._settings, self._arn_prefix, call, now, intend)
        return await operation.run(context, parsed)

    async def _refuse(
        self, protocol: WireProtocol, error: errors.KmsError, request_id: str, peer: str
    ) -> Response:
        """Answers a request of nobody we know. Its audit line may be suppressed: see `RefusalLimiter`."""
        suppressed = self._refusals.take()
        if suppressed is not None:
            try:
                await self._backend.audit(
                    AuditRecord(request_id, _UNKNOWN, error.code, peer=peer, suppressed=suppressed)
                )
            except Exception as failure:
                self._log(failure)
                error = errors.audit_failed()
            _tell(_UNKNOWN, error)
        return protocol.failure(error, request_id)

    async def _health(self) -> Response:
        request_id = _new_request_id()
        try:
            healthy = await self._backend.can_serve()
        except Exception as error:
            self._log(error)
            healthy = False
        body = b"ok\n" if healthy else b"cannot serve\n"
        return Response(
            200 if healthy else 503,
            (
                (b"x-amzn-requestid", request_id.encode()),
                (b"content-type", b"text/plain"),
                (b"content-length", b"%d" % len(body)),
            ),
            body,
        )

    def _explain(self, error: Exception, request_id: str) -> errors.KmsError:
        if isinstance(error, errors.KmsError):
            return error
        explained = errors.from_backend(error, self._arn_prefix) if isinstance(error, BackendError) else None
        if explained is None:
            self._log(error)
            return errors.internal(request_id)
        return explained

    def _log(self, error: Exception) -> None:
        """Where it failed, and as what; never the exception's text, which might quote a value (N85)."""
        log.error(
            "the request failed inside: %s", type(error).__name__, extra={"exception": logs.told(error)}
        )


def _new_request_id() -> str:
    """The request's name from here on: to the client, in the audit log, and on every line logged for it."""
    request_id = str(uuid.uuid4())
    logs.request_id.set(request_id)
    return request_id


def _tell(operation: str, error: errors.KmsError) -> None:
    """A code, never the message: that may name what the client sent."""
    level = logging.WARNING if error.status >= 500 else logging.INFO
    log.log(level, "%s fails: %s (%d)", operation, error.code, error.status)


def _request_id(answer: Response) -> str:
    """The id under which a member answered: the client sees it, so both nodes' audit lines bear it."""
    return next((value.decode("ascii") for name, value in answer.headers if name == b"x-amzn-requestid"), "")


def _line(call: Call, phase: Phase, outcome: str, peer: str) -> AuditRecord:
    who = call.identity
    return AuditRecord(
        call.request_id,
        call.operation,
        outcome,
        phase,
        who.access_key_id,
        who.name,
        who.role.value,
        call.key_id,
        call.source_key_id,
        call.domain,
        call.session_id,
        peer,
    )
