"""The two ways AWS clients speak to this endpoint: AWS JSON 1.1 for KMS, the query protocol for STS.

Here: how a request names its operation, how answers and errors look on the wire.
Not here: verification, and what operations do.
"""

from __future__ import annotations

from typing import Any, Protocol
from xml.sax.saxutils import escape

import msgspec

from quorate.kms import aliases, crypto, errors, keys, sts
from quorate.kms.http import Header, Response, SignedRequest
from quorate.kms.operation import Operation

_FORM = b"application/x-www-form-urlencoded"
_JSON = b"application/x-amz-json-1.1"
_TARGET = b"TrentService."


class WireProtocol(Protocol):
    service: str
    """The service that a signature's scope must name."""

    def operation(self, request: SignedRequest) -> Operation:
        """Raises `errors.KmsError` if the request names none that exists. Called once the signature holds."""
        ...

    def success(self, operation: Operation, members: dict[str, Any] | None, request_id: str) -> Response: ...

    def failure(self, error: errors.KmsError, request_id: str) -> Response: ...


class AwsJson:
    """POST / with `x-amz-target: TrentService.OPERATION`."""

    service = "kms"

    def __init__(self) -> None:
        groups = (keys.OPERATIONS, aliases.OPERATIONS, crypto.OPERATIONS)
        self._operations = {_TARGET + operation.name.encode(): operation for group in groups for operation in group}
        self._encode = msgspec.json.Encoder().encode

    def operation(self, request: SignedRequest) -> Operation:
        found = self._operations.get(request.header(b"x-amz-target"))
        media_type = request.header(b"content-type").partition(b";")[0].strip().lower()
        if found is None or request.method != "POST" or request.target != b"/" or media_type != _JSON:
            raise errors.unknown_operation()
        return found

    def success(self, operation: Operation, members: dict[str, Any] | None, request_id: str) -> Response:
        body = b"" if members is None else self._encode(members)
        return Response(200, _headers(_JSON, request_id, body), body)

    def failure(self, error: errors.KmsError, request_id: str) -> Response:
        members = {"__type": error.code}
        if error.message:
            members["message"] = error.message
        body = self._encode(members)
        extra: tuple[Header, ...] = ((b"x-amzn-errortype", error.code.encode()),)
        return Response(error.status, _headers(_JSON, request_id, body) + extra, body)


class StsQuery:
    """POST / with a form that holds `Action` and `Version`; answers in XML."""

    service = "sts"

    def operation(self, request: SignedRequest) -> Operation:
        if request.method != "POST" or request.target != b"/":
            raise errors.unknown_operation()
        return sts.named_operation(request.body)

    def success(self, operation: Operation, members: dict[str, Any] | None, request_id: str) -> Response:
        name = operation.name
        inner = "".join(f"<{key}>{escape(str(value))}</{key}>" for key, value in (members or {}).items())
        return self._xml(200, request_id, f'<{name}Response xmlns="{sts.NAMESPACE}"><{name}Result>{inner}</{name}Result>'
                         f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{name}Response>")

    def failure(self, error: errors.KmsError, request_id: str) -> Response:
        party = "Receiver" if error.status >= 500 else "Sender"
        return self._xml(error.status, request_id, f'<ErrorResponse xmlns="{sts.NAMESPACE}"><Error><Type>{party}</Type>'
                         f"<Code>{sts.code(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
                         f"<RequestId>{request_id}</RequestId></ErrorResponse>")

    def _xml(self, status: int, request_id: str, text: str) -> Response:
        body = text.encode()
        return Response(status, _headers(b"text/xml", request_id, body), body)


def _headers(media_type: bytes, request_id: str, body: bytes) -> tuple[Header, ...]:
    return ((b"x-amzn-requestid", request_id.encode()), (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)))


_AWS_JSON = AwsJson()
_STS_QUERY = StsQuery()


def protocol_of(request: SignedRequest) -> WireProtocol:
    """A form without an x-amz-target is for STS; everything else is answered as KMS would."""
    if request.header(b"content-type").lower().startswith(_FORM) and not request.header(b"x-amz-target"):
        return _STS_QUERY
    return _AWS_JSON
