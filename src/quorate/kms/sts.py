"""STS GetCallerIdentity: clients ask it to learn whether their access key works.

Here: the form, the answer, and STS's own names for errors. Not here: XML (protocols.py).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from quorate.kms import errors
from quorate.kms.operation import Context, Operation

NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"

_VERSION = "2011-06-15"

# STS names the common errors without the suffix, and two of them otherwise.
_CODES = {
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "UnrecognizedClientException": "InvalidClientTokenId",
    "MissingAuthenticationTokenException": "MissingAuthenticationToken",
    "IncompleteSignatureException": "IncompleteSignature",
    "AccessDeniedException": "AccessDenied",
    "ValidationException": "ValidationError",
    "SerializationException": "MalformedInput",
    "ThrottlingException": "Throttling",
    "UnknownOperationException": "InvalidAction",
    "KMSInternalException": "InternalFailure",
    "KeyUnavailableException": "ServiceUnavailable",
    "DependencyTimeoutException": "ServiceUnavailable",
}


def code(kms_code: str) -> str:
    return _CODES.get(kms_code, kms_code)


def named_operation(form: bytes) -> Operation:
    """The operation that a form names. Raises `errors.KmsError`."""
    try:
        pairs = parse_qsl(form.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict",
                          max_num_fields=100)
    except ValueError:
        raise errors.serialization("The request body is not a well-formed form.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise errors.serialization("A field occurs more than once in the form.")
    if fields.get("Action") != "GetCallerIdentity" or fields.get("Version") != _VERSION:
        raise errors.KmsError("InvalidAction", "The only operation of STS here is GetCallerIdentity, version "
                              f"{_VERSION}.", 400)
    return _GET_CALLER_IDENTITY


def _read(form: bytes) -> None:
    """The operation has no parameters; unknown fields are ignored."""


async def _get_caller_identity(context: Context, request: None) -> dict[str, Any]:
    identity = context.call.identity
    account = context.settings.account
    return {"Arn": f"arn:aws:iam::{account}:user/{identity.name}", "UserId": identity.access_key_id, "Account": account}


_GET_CALLER_IDENTITY = Operation("GetCallerIdentity", _read, _get_caller_identity)
