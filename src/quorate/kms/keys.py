"""Operations on keys as such: create, describe, list, enable, disable, schedule and cancel deletion.

Only symmetric encryption keys exist so far. A key policy is checked for form and size and then ignored: what an
access key may do follows from its role. The tag `quorate:domain` names the domain; without it, `default`.

Not here: use of a key (crypto.py), names for it (aliases.py).
"""

from __future__ import annotations

from typing import Any

import msgspec

from quorate.kms import errors, paging
from quorate.kms.backend import KeyRecord, KeyState
from quorate.kms.operation import Context, Operation, find_key, require_not_pending
from quorate.kms.validation import Check, Request, decoder

DOMAIN_TAG = "quorate:domain"
DEFAULT_DOMAIN = "default"

_USAGES = ("SIGN_VERIFY", "ENCRYPT_DECRYPT", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT", "ENCAPSULATE_DECAPSULATE")
_SPECS = ("RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1",
          "SYMMETRIC_DEFAULT", "HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512", "SM2", "ML_DSA_44", "ML_DSA_65",
          "ML_DSA_87", "ECC_NIST_EDWARDS25519", "ML_KEM_512", "ML_KEM_768", "ML_KEM_1024")
_ORIGINS = ("AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE")
_POLICY_QUOTA = 32768  # bytes; the model allows 131072 characters, the quota is what AWS enforces
_TAGS_QUOTA = 50
_TAG_MARKS = frozenset("_.:/=+-@ ")
_DAY = 86400.0


class Tag(Request, frozen=True):
    tag_key: str | None = None
    tag_value: str | None = None


class CreateKeyRequest(Request, frozen=True):
    policy: str | None = None
    description: str | None = None
    key_usage: str | None = None
    customer_master_key_spec: str | None = None
    key_spec: str | None = None
    origin: str | None = None
    custom_key_store_id: str | None = None
    bypass_policy_lockout_safety_check: bool | None = None
    tags: list[Tag] | None = None
    multi_region: bool | None = None
    xks_key_id: str | None = None


class DescribeKeyRequest(Request, frozen=True):
    key_id: str | None = None
    grant_tokens: list[str] | None = None


class KeyRequest(Request, frozen=True):
    """Body of every operation that names a key and nothing else."""

    key_id: str | None = None


class ListKeysRequest(Request, frozen=True):
    limit: int | None = None
    marker: str | None = None


class ScheduleKeyDeletionRequest(Request, frozen=True):
    key_id: str | None = None
    pending_window_in_days: int | None = None


async def _create_key(context: Context, request: CreateKeyRequest) -> dict[str, Any]:
    check = Check()
    check.length("policy", request.policy, 1, 131072)
    check.length("description", request.description, 0, 8192)
    check.one_of("keyUsage", request.key_usage, _USAGES)
    check.one_of("customerMasterKeySpec", request.customer_master_key_spec, _SPECS)
    check.one_of("keySpec", request.key_spec, _SPECS)
    check.one_of("origin", request.origin, _ORIGINS)
    for position, tag in enumerate(request.tags or (), 1):
        check.required(f"tags.{position}.member.tagKey", tag.tag_key)
        check.required(f"tags.{position}.member.tagValue", tag.tag_value)
        check.length(f"tags.{position}.member.tagKey", tag.tag_key, 1, 128)
        check.length(f"tags.{position}.member.tagValue", tag.tag_value, 0, 256)
    check.done()
    _check_kind(request)
    _check_policy(request.policy)
    tags = _checked_tags(request.tags or [])
    domain = tags.get(DOMAIN_TAG, DEFAULT_DOMAIN)
    key = await context.backend.create_key(context.call, domain, request.description or "", tags)
    context.call.key_id, context.call.domain = key.key_id, key.domain
    return {"KeyMetadata": _metadata(context, key)}


def _check_kind(request: CreateKeyRequest) -> None:
    if request.key_spec is not None and request.customer_master_key_spec is not None:
        raise errors.validation("You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
                                "CustomerMasterKeySpec is deprecated.")
    spec = request.key_spec or request.customer_master_key_spec or "SYMMETRIC_DEFAULT"
    if spec != "SYMMETRIC_DEFAULT":
        raise errors.unsupported(f"KeySpec {spec} is not supported; use SYMMETRIC_DEFAULT.")
    if request.key_usage not in (None, "ENCRYPT_DECRYPT"):
        raise errors.validation(f"KeyUsage {request.key_usage} is not compatible with KeySpec {spec}.")
    if request.origin not in (None, "AWS_KMS") or request.custom_key_store_id or request.xks_key_id:
        raise errors.unsupported("Only Origin AWS_KMS is supported; there are no custom key stores.")
    if request.multi_region:
        raise errors.unsupported("Multi-Region keys are not supported.")


def _check_policy(policy: str | None) -> None:
    if policy is None:
        return
    if len(policy.encode()) > _POLICY_QUOTA:
        raise errors.limit_exceeded(f"The key policy exceeds {_POLICY_QUOTA} bytes.")
    try:
        msgspec.json.decode(policy, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise errors.malformed_policy("The new key policy is not one well-formed JSON object.") from None


def _checked_tags(given: list[Tag]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag in given:
        name, value = tag.tag_key or "", tag.tag_value or ""
        if name in tags:
            raise errors.invalid_tag(f"Duplicate tag keys: {name}")
        if name.lower().startswith("aws:"):
            raise errors.invalid_tag("Tag keys must not begin with aws:")
        if not all(letter.isalnum() or letter in _TAG_MARKS for letter in name + value):
            raise errors.invalid_tag(f"The tag '{name}' holds a character other than letters, digits, spaces and "
                                     "_ . : / = + - @")
        tags[name] = value
    if len(tags) > _TAGS_QUOTA:
        raise errors.invalid_tag(f"A key can have at most {_TAGS_QUOTA} tags.")
    return tags


async def _describe_key(context: Context, request: DescribeKeyRequest) -> dict[str, Any]:
    check = Check()
    check.key_reference("keyId", request.key_id)
    check.grant_tokens(request.grant_tokens)
    check.done()
    return {"KeyMetadata": _metadata(context, await find_key(context, request.key_id or ""))}


async def _list_keys(context: Context, request: ListKeysRequest) -> dict[str, Any]:
    check = Check()
    check.between("limit", request.limit, 1, 1000)
    check.length("marker", request.marker, 1, 1024)
    check.done()
    limit = request.limit or 100
    found = await context.backend.list_keys(paging.after(request.marker), limit + 1)
    last = found[limit - 1].key_id if len(found) > limit else ""
    shown, members = paging.page(found, limit, last)
    return {"Keys": [{"KeyId": key.key_id, "KeyArn": context.key_arn(key.key_id)} for key in shown], **members}


async def _enable_key(context: Context, request: KeyRequest) -> None:
    key = await _named_key(context, request.key_id)
    require_not_pending(context, key)
    await context.backend.set_enabled(context.call, key.key_id, True)


async def _disable_key(context: Context, request: KeyRequest) -> None:
    key = await _named_key(context, request.key_id)
    require_not_pending(context, key)
    await context.backend.set_enabled(context.call, key.key_id, False)


async def _schedule_key_deletion(context: Context, request: ScheduleKeyDeletionRequest) -> dict[str, Any]:
    check = Check()
    check.key_reference("keyId", request.key_id)
    check.between("pendingWindowInDays", request.pending_window_in_days, 7, 30)
    check.done()
    days = request.pending_window_in_days or 30
    key = await find_key(context, request.key_id or "", aliases=False)
    require_not_pending(context, key)
    key = await context.backend.schedule_deletion(context.call, key.key_id, context.now + days * _DAY)
    return {"KeyId": context.key_arn(key.key_id), "KeyState": key.state, "DeletionDate": key.deletion_date,
            "PendingWindowInDays": days}


async def _cancel_key_deletion(context: Context, request: KeyRequest) -> dict[str, Any]:
    key = await _named_key(context, request.key_id)
    if key.state is not KeyState.PENDING_DELETION:
        raise errors.invalid_state(f"{context.key_arn(key.key_id)} is not pending deletion.")
    await context.backend.cancel_deletion(context.call, key.key_id)
    return {"KeyId": context.key_arn(key.key_id)}


async def _named_key(context: Context, key_id: str | None) -> KeyRecord:
    check = Check()
    check.key_reference("keyId", key_id)
    check.done()
    return await find_key(context, key_id or "", aliases=False)


def _metadata(context: Context, key: KeyRecord) -> dict[str, Any]:
    members: dict[str, Any] = {
        "AWSAccountId": context.settings.account, "KeyId": key.key_id, "Arn": context.key_arn(key.key_id),
        "CreationDate": key.created, "Enabled": key.enabled, "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": key.state, "Origin": "AWS_KMS", "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "MultiRegion": False}
    if key.deletion_date is not None:
        members["DeletionDate"] = key.deletion_date
    return members


OPERATIONS = (
    Operation("CreateKey", decoder(CreateKeyRequest), _create_key, admin=True, changes_state=True, once=True),
    Operation("DescribeKey", decoder(DescribeKeyRequest), _describe_key),
    Operation("ListKeys", decoder(ListKeysRequest), _list_keys),
    Operation("EnableKey", decoder(KeyRequest), _enable_key, admin=True, changes_state=True, once=True),
    Operation("DisableKey", decoder(KeyRequest), _disable_key, admin=True, changes_state=True, once=True),
    Operation("ScheduleKeyDeletion", decoder(ScheduleKeyDeletionRequest), _schedule_key_deletion, admin=True,
              changes_state=True, once=True),
    Operation("CancelKeyDeletion", decoder(KeyRequest), _cancel_key_deletion, admin=True, changes_state=True, once=True),
)
