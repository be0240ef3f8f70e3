"""The one error table: what went wrong inside → AWS's code, HTTP status and message.

Codes and texts are AWS's (botocore's kms/2014-11-01/service-2.json and "Common Error Types" of the KMS API
Reference); where AWS has no code for a case, the nearest is used and the text says more.

Decisions: a signature that cannot be verified is 403, whatever the reason, but 400 where a request is
ambiguous. Unknown access key and wrong signature are one answer, `InvalidSignatureException` (AWS tells them
apart by `UnrecognizedClientException`, which lets anyone enumerate access keys). Only codes with status 500,
and `ThrottlingException`, are retried by the SDKs.

Not here: how an error is written to the wire (app.py, sts.py).
"""

from __future__ import annotations

from quorate.kms import backend


class KmsError(Exception):
    """An error as the client sees it. `message` never holds a secret and may be empty."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


# Authentication. `IncompleteSignature` is for what cannot be read, `InvalidSignature` for what does not hold.


def missing_authentication() -> KmsError:
    return KmsError("MissingAuthenticationTokenException", "Missing Authentication Token", 403)


def incomplete_signature(message: str) -> KmsError:
    return KmsError("IncompleteSignatureException", message, 403)


def ambiguous_request(message: str) -> KmsError:
    """The request can be read in two ways, or carries two authentications (attack N72, N76)."""
    return KmsError("IncompleteSignatureException", message, 400)


def invalid_signature(
    message: str = "The request signature we calculated does not match the signature you provided. "
    "Check your AWS Access Key Id, your AWS Secret Access Key and signing method. "
    "Consult the service documentation for details.",
) -> KmsError:
    return KmsError("InvalidSignatureException", message, 403)


def security_token_refused() -> KmsError:
    return KmsError(
        "UnrecognizedClientException",
        "The security token included in the request is invalid: "
        "this endpoint issues no session tokens; unset AWS_SESSION_TOKEN.",
        403,
    )


def replayed() -> KmsError:
    return invalid_signature(
        "Signature already used: a request with this signature was accepted before, and this "
        "operation must not run twice. Sign the request anew to repeat it."
    )


def access_denied(account: str, user: str, operation: str, role: str) -> KmsError:
    return KmsError(
        "AccessDeniedException",
        f"User: arn:aws:iam::{account}:user/{user} is not authorized to perform: kms:{operation} on "
        f"resource: * because no access key of role '{role}' allows the kms:{operation} action",
    )


def ciphertext_key_not_found() -> KmsError:
    return KmsError(
        "AccessDeniedException",
        "The ciphertext refers to a customer master key that does not exist, "
        "does not exist in this region, or you are not allowed to access.",
    )


# Requests that cannot be read.


def serialization(message: str) -> KmsError:
    return KmsError("SerializationException", message)


def unknown_operation() -> KmsError:
    return KmsError(
        "UnknownOperationException", "The requested operation is not recognized by the service.", 404
    )


def too_large(limit: int) -> KmsError:
    return KmsError("RequestEntityTooLargeException", f"The request body must not exceed {limit} bytes.", 413)


def too_slow(seconds: float) -> KmsError:
    return KmsError(
        "RequestTimeoutException", f"The request body did not arrive within {seconds:g} seconds.", 408
    )


def throttled(message: str) -> KmsError:
    return KmsError("ThrottlingException", message)


# Parameters.


def validation(message: str) -> KmsError:
    return KmsError("ValidationException", message)


def unsupported(message: str) -> KmsError:
    return KmsError("UnsupportedOperationException", message)


def invalid_arn(arn: str) -> KmsError:
    return KmsError("InvalidArnException", f"Invalid arn {arn}")


def invalid_marker(marker: str) -> KmsError:
    return KmsError("InvalidMarkerException", f"Could not deserialize marker '{marker}'")


def invalid_alias_name(message: str) -> KmsError:
    return KmsError("InvalidAliasNameException", message)


def invalid_tag(message: str) -> KmsError:
    return KmsError("TagException", message)


def malformed_policy(message: str) -> KmsError:
    return KmsError("MalformedPolicyDocumentException", message)


def limit_exceeded(message: str) -> KmsError:
    return KmsError("LimitExceededException", message)


def dry_run() -> KmsError:
    return KmsError(
        "DryRunOperationException", "The request would have succeeded, but the DryRun option is set."
    )


# Keys, aliases, ciphertexts.


def not_found(message: str) -> KmsError:
    return KmsError("NotFoundException", message)


def key_not_found(arn: str) -> KmsError:
    return not_found(f"Key '{arn}' does not exist")


def alias_not_found(arn: str) -> KmsError:
    return not_found(f"Alias {arn} is not found.")


def alias_exists(arn: str) -> KmsError:
    return KmsError("AlreadyExistsException", f"An alias with the name {arn} already exists")


def disabled(arn: str) -> KmsError:
    return KmsError("DisabledException", f"{arn} is disabled.")


def invalid_state(message: str) -> KmsError:
    return KmsError("KMSInvalidStateException", message)


def pending_deletion(arn: str) -> KmsError:
    return invalid_state(f"{arn} is pending deletion.")


def invalid_key_usage(message: str) -> KmsError:
    return KmsError("InvalidKeyUsageException", message)


def incorrect_key() -> KmsError:
    return KmsError(
        "IncorrectKeyException",
        "The key ID in the request does not identify a CMK that can perform this operation.",
    )


def invalid_ciphertext() -> KmsError:
    """Without a message, as AWS answers: it says nothing about what did not match."""
    return KmsError("InvalidCiphertextException", "")


# Failures of the service. All are retried by the SDKs.


def internal(request_id: str) -> KmsError:
    return KmsError(
        "KMSInternalException",
        f"The request failed because of an internal error; it can be retried. "
        f"The server's log explains it under the id {request_id}.",
        500,
    )


def audit_failed() -> KmsError:
    return KmsError(
        "KMSInternalException", "The request was refused because its audit record could not be written.", 500
    )


def key_unavailable(detail: str) -> KmsError:
    return KmsError(
        "KeyUnavailableException",
        detail
        or "The request was rejected because the specified KMS key was not available. "
        "You can retry the request.",
        500,
    )


def dependency_timeout() -> KmsError:
    return KmsError(
        "DependencyTimeoutException",
        "The system timed out while trying to fulfill the request. You can retry the request.",
        500,
    )


def from_backend(error: backend.BackendError, arn_prefix: str) -> KmsError | None:
    """A backend's failure in AWS's words; None for a class that has no line here.

    `arn_prefix`: `arn:aws:kms:REGION:ACCOUNT:`.
    """
    match error:
        case backend.SignatureRejected():
            return invalid_signature()
        case backend.RequestReplayed():
            return replayed()
        case backend.InvalidCiphertext():
            return invalid_ciphertext()
        case backend.KeyUnavailable() | backend.CannotServe():
            return key_unavailable(error.detail)
        case backend.DependencyTimeout():
            return dependency_timeout()
        case backend.KeyNotFound():
            return key_not_found(f"{arn_prefix}key/{error.detail}")
        case backend.AliasNotFound():
            return alias_not_found(arn_prefix + error.detail)
        case backend.AliasExists():
            return alias_exists(arn_prefix + error.detail)
        case backend.UnknownDomain():
            return invalid_tag(
                f"The domain '{error.detail}' named by the tag quorate:domain does not exist; "
                f"`quorate domain list` shows those that do."
            )
        case backend.StateConflict():
            return invalid_state(error.detail)
        case backend.LimitExceeded():
            return limit_exceeded(error.detail)
    return None
