"""Use of keys: Encrypt, Decrypt, ReEncrypt, GenerateDataKey (with and without plaintext), GenerateRandom.

The encryption context goes to the module exactly as the client gave it: names and values are case-sensitive,
and the order of pairs has no meaning. DryRun stops after every check that needs no key material.

Not here: any cryptography.
"""

from __future__ import annotations

from typing import Any

from quorate.kms import errors
from quorate.kms.backend import KeyRecord
from quorate.kms.operation import Context, Operation, find_key, find_usable_key, require_usable
from quorate.kms.validation import Check, Request, decoder

ALGORITHM = "SYMMETRIC_DEFAULT"
PLAINTEXT_MAX = 4096
CIPHERTEXT_MAX = 6144
RANDOM_MAX = 1024

_ALGORITHMS = ("SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE")
_DATA_KEY_SIZES = {"AES_256": 32, "AES_128": 16}


class Recipient(Request, frozen=True):
    """An attested enclave; there is none here, so its presence is refused and its members are not read."""


class EncryptRequest(Request, frozen=True):
    key_id: str | None = None
    plaintext: bytes | None = None
    encryption_context: dict[str, str] | None = None
    grant_tokens: list[str] | None = None
    encryption_algorithm: str | None = None
    dry_run: bool | None = None


class DecryptRequest(Request, frozen=True):
    ciphertext_blob: bytes | None = None
    encryption_context: dict[str, str] | None = None
    grant_tokens: list[str] | None = None
    key_id: str | None = None
    encryption_algorithm: str | None = None
    recipient: Recipient | None = None
    dry_run: bool | None = None
    dry_run_modifiers: list[str] | None = None


class ReEncryptRequest(Request, frozen=True):
    ciphertext_blob: bytes | None = None
    source_encryption_context: dict[str, str] | None = None
    source_key_id: str | None = None
    destination_key_id: str | None = None
    destination_encryption_context: dict[str, str] | None = None
    source_encryption_algorithm: str | None = None
    destination_encryption_algorithm: str | None = None
    grant_tokens: list[str] | None = None
    dry_run: bool | None = None
    dry_run_modifiers: list[str] | None = None


class GenerateDataKeyRequest(Request, frozen=True):
    key_id: str | None = None
    encryption_context: dict[str, str] | None = None
    number_of_bytes: int | None = None
    key_spec: str | None = None
    grant_tokens: list[str] | None = None
    recipient: Recipient | None = None
    dry_run: bool | None = None


class GenerateRandomRequest(Request, frozen=True):
    number_of_bytes: int | None = None
    custom_key_store_id: str | None = None
    recipient: Recipient | None = None


async def _encrypt(context: Context, request: EncryptRequest) -> dict[str, Any]:
    check = Check()
    check.key_reference("keyId", request.key_id)
    check.required("plaintext", request.plaintext)
    check.length("plaintext", request.plaintext, 1, PLAINTEXT_MAX)
    check.context("encryptionContext", request.encryption_context)
    check.grant_tokens(request.grant_tokens)
    check.one_of("encryptionAlgorithm", request.encryption_algorithm, _ALGORITHMS)
    check.done()
    key = await find_usable_key(context, request.key_id or "")
    _require_algorithm(context, key, request.encryption_algorithm)
    _stop_dry_run(request.dry_run)
    blob = await context.backend.encrypt(
        context.call, key, request.plaintext or b"", request.encryption_context or {}
    )
    return {"CiphertextBlob": blob, "KeyId": context.key_arn(key.key_id), "EncryptionAlgorithm": ALGORITHM}


async def _decrypt(context: Context, request: DecryptRequest) -> dict[str, Any]:
    check = Check()
    check.required("ciphertextBlob", request.ciphertext_blob)
    check.length("ciphertextBlob", request.ciphertext_blob, 1, CIPHERTEXT_MAX)
    check.key_reference("keyId", request.key_id, needed=context.settings.require_key_id)
    check.context("encryptionContext", request.encryption_context)
    check.grant_tokens(request.grant_tokens)
    check.one_of("encryptionAlgorithm", request.encryption_algorithm, _ALGORITHMS)
    check.done()
    _refuse_recipient(request.recipient)
    _refuse_modifiers(request.dry_run_modifiers)
    blob = request.ciphertext_blob or b""
    key = await _key_of_blob(context, blob, request.key_id)
    _require_algorithm(context, key, request.encryption_algorithm)
    _stop_dry_run(request.dry_run)
    plaintext = await context.backend.decrypt(context.call, key, blob, request.encryption_context or {})
    return {"KeyId": context.key_arn(key.key_id), "Plaintext": plaintext, "EncryptionAlgorithm": ALGORITHM}


async def _re_encrypt(context: Context, request: ReEncryptRequest) -> dict[str, Any]:
    check = Check()
    check.required("ciphertextBlob", request.ciphertext_blob)
    check.length("ciphertextBlob", request.ciphertext_blob, 1, CIPHERTEXT_MAX)
    check.key_reference("sourceKeyId", request.source_key_id, needed=context.settings.require_key_id)
    check.key_reference("destinationKeyId", request.destination_key_id)
    check.context("sourceEncryptionContext", request.source_encryption_context)
    check.context("destinationEncryptionContext", request.destination_encryption_context)
    check.grant_tokens(request.grant_tokens)
    check.one_of("sourceEncryptionAlgorithm", request.source_encryption_algorithm, _ALGORITHMS)
    check.one_of("destinationEncryptionAlgorithm", request.destination_encryption_algorithm, _ALGORITHMS)
    check.done()
    _refuse_modifiers(request.dry_run_modifiers)
    blob = request.ciphertext_blob or b""
    source = await _key_of_blob(context, blob, request.source_key_id)
    context.call.source_key_id = source.key_id
    destination = await find_usable_key(context, request.destination_key_id or "")
    _require_algorithm(context, source, request.source_encryption_algorithm)
    _require_algorithm(context, destination, request.destination_encryption_algorithm)
    _stop_dry_run(request.dry_run)
    sealed = await context.backend.reencrypt(
        context.call,
        source,
        blob,
        request.source_encryption_context or {},
        destination,
        request.destination_encryption_context or {},
    )
    return {
        "CiphertextBlob": sealed,
        "SourceKeyId": context.key_arn(source.key_id),
        "KeyId": context.key_arn(destination.key_id),
        "SourceEncryptionAlgorithm": ALGORITHM,
        "DestinationEncryptionAlgorithm": ALGORITHM,
    }


async def _generate_data_key(context: Context, request: GenerateDataKeyRequest) -> dict[str, Any]:
    return await _data_key(context, request, with_plaintext=True)


async def _generate_data_key_without_plaintext(
    context: Context, request: GenerateDataKeyRequest
) -> dict[str, Any]:
    return await _data_key(context, request, with_plaintext=False)


async def _data_key(
    context: Context, request: GenerateDataKeyRequest, *, with_plaintext: bool
) -> dict[str, Any]:
    check = Check()
    check.key_reference("keyId", request.key_id)
    check.context("encryptionContext", request.encryption_context)
    check.between("numberOfBytes", request.number_of_bytes, 1, RANDOM_MAX)
    check.one_of("keySpec", request.key_spec, ("AES_256", "AES_128"))
    check.grant_tokens(request.grant_tokens)
    check.done()
    _refuse_recipient(request.recipient)
    if (request.number_of_bytes is None) == (request.key_spec is None):
        raise errors.validation("Please specify either number of bytes or key spec.")
    size = request.number_of_bytes or _DATA_KEY_SIZES[request.key_spec or ""]
    key = await find_usable_key(context, request.key_id or "")
    _stop_dry_run(request.dry_run)
    plaintext, blob = await context.backend.generate_data_key(
        context.call, key, size, request.encryption_context or {}, with_plaintext
    )
    members: dict[str, Any] = {"CiphertextBlob": blob, "KeyId": context.key_arn(key.key_id)}
    if with_plaintext:
        members["Plaintext"] = plaintext
    return members


async def _generate_random(context: Context, request: GenerateRandomRequest) -> dict[str, Any]:
    check = Check()
    check.required("numberOfBytes", request.number_of_bytes)
    check.between("numberOfBytes", request.number_of_bytes, 1, RANDOM_MAX)
    check.done()
    _refuse_recipient(request.recipient)
    if request.custom_key_store_id is not None:
        raise errors.unsupported("There are no custom key stores.")
    return {"Plaintext": await context.backend.random(context.call, request.number_of_bytes or 0)}


async def _key_of_blob(context: Context, blob: bytes, named: str | None) -> KeyRecord:
    """The usable key that a ciphertext was made with; if the client names a key, it must be that one (attack
    N78).
    """
    if named is not None:
        key = await find_key(context, named)
        if context.backend.blob_key_id(blob) != key.key_id:
            raise errors.incorrect_key()
    else:
        found = await context.backend.get_key(context.backend.blob_key_id(blob))
        if found is None:
            raise errors.ciphertext_key_not_found()
        key = found
        context.call.key_id, context.call.domain = key.key_id, key.domain
    require_usable(context, key)
    return key


def _require_algorithm(context: Context, key: KeyRecord, algorithm: str | None) -> None:
    if algorithm not in (None, ALGORITHM):
        raise errors.invalid_key_usage(
            f"{context.key_arn(key.key_id)} key spec is SYMMETRIC_DEFAULT, which is not "
            f"compatible with the algorithm {algorithm}."
        )


def _refuse_recipient(recipient: Recipient | None) -> None:
    if recipient is not None:
        raise errors.unsupported("Recipient is not supported: there are no attested enclaves here.")


def _refuse_modifiers(modifiers: list[str] | None) -> None:
    if modifiers:
        raise errors.unsupported("DryRunModifiers are not supported.")


def _stop_dry_run(dry_run: bool | None) -> None:
    if dry_run:
        raise errors.dry_run()


OPERATIONS = (
    Operation("Encrypt", decoder(EncryptRequest), _encrypt),
    Operation("Decrypt", decoder(DecryptRequest), _decrypt),
    Operation("ReEncrypt", decoder(ReEncryptRequest), _re_encrypt),
    Operation("GenerateDataKey", decoder(GenerateDataKeyRequest), _generate_data_key, once=True),
    Operation(
        "GenerateDataKeyWithoutPlaintext",
        decoder(GenerateDataKeyRequest),
        _generate_data_key_without_plaintext,
        once=True,
    ),
    Operation("GenerateRandom", decoder(GenerateRandomRequest), _generate_random),
)
