"""What every operation shares: its declaration, its surroundings, and how it finds the key that a request
names.

Not here: any single operation (keys.py, aliases.py, crypto.py, sts.py), nor who may call at all (sigv4.py).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from quorate.kms import errors
from quorate.kms.backend import Backend, Call, KeyRecord, KeyState

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Settings:
    """`region`, `account`: of the fleet, as they stand in ARNs and SigV4 scopes.

    `require_key_id`: Decrypt must name its key, and ReEncrypt its source key, so that a ciphertext cannot
    choose the key it is opened with (attack N78). Off by default, as with AWS.
    """

    region: str
    account: str
    require_key_id: bool = False

    @property
    def arn_prefix(self) -> str:
        return f"arn:aws:kms:{self.region}:{self.account}:"


class Context(msgspec.Struct, frozen=True):
    """Surroundings of one call. `now`: seconds since 1970. `arn_prefix`: of the fleet's keys and aliases.

    `intend`: writes the audit line of what is about to happen, durably; every operation that changes state
    awaits it after its checks and before the change, so that nothing changes without a record (attack N84).
    """

    backend: Backend
    settings: Settings
    arn_prefix: str
    call: Call
    now: float
    intend: Callable[[], Awaitable[None]]

    def key_arn(self, key_id: str) -> str:
        return f"{self.arn_prefix}key/{key_id}"


@dataclass(frozen=True, slots=True)
class Operation:
    """`read`: body to request. `run`: request to the members of the answer, or None for an empty body.

    `admin`: only access keys of role admin may call it. `changes_state`: it audits an intent first.
    `once`: a byte-identical repeat is refused.
    """

    name: str
    read: Callable[[bytes], Any]
    run: Callable[[Context, Any], Awaitable[dict[str, Any] | None]]
    admin: bool = False
    changes_state: bool = False
    once: bool = False


async def find_key(context: Context, reference: str, *, aliases: bool = True) -> KeyRecord:
    """The key that a key id, key ARN, alias name or alias ARN names; the audit line names it from now on.

    `aliases`: False for operations which, as with AWS, take a key id or key ARN only.
    """
    resource = reference
    if reference.startswith("arn:"):
        resource = _resource(context, reference)
        if not aliases and resource.startswith("alias/"):
            raise errors.invalid_arn(reference)
        if resource.startswith("key/"):
            resource = resource[4:]
    if aliases and resource.startswith("alias/"):
        found = await context.backend.resolve_alias(resource)
        if found is None:
            raise errors.alias_not_found(context.arn_prefix + resource)
        key_id = found
    elif _UUID.fullmatch(resource):
        key_id = resource
    else:
        raise errors.not_found(f"Invalid keyId '{resource[:256]}'")
    key = await context.backend.get_key(key_id)
    if key is None:
        raise errors.key_not_found(context.key_arn(key_id))
    context.call.key_id = key.key_id
    context.call.domain = key.domain
    return key


async def find_usable_key(context: Context, reference: str) -> KeyRecord:
    """As `find_key`, for cryptographic operations: the key must be enabled."""
    key = await find_key(context, reference)
    require_usable(context, key)
    return key


def require_usable(context: Context, key: KeyRecord) -> None:
    if key.state is KeyState.DISABLED:
        raise errors.disabled(context.key_arn(key.key_id))
    require_not_pending(context, key)


def require_not_pending(context: Context, key: KeyRecord) -> None:
    if key.state is KeyState.PENDING_DELETION:
        raise errors.pending_deletion(context.key_arn(key.key_id))


def _resource(context: Context, arn: str) -> str:
    """`key/…` or `alias/…` of an ARN of this fleet."""
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[:3] != ["arn", "aws", "kms"] or not parts[5].startswith(("key/", "alias/")):
        raise errors.invalid_arn(arn)
    if parts[3] != context.settings.region:
        raise errors.not_found(f"Invalid arn {parts[3]}")
    if parts[4] != context.settings.account:
        raise errors.key_not_found(arn)
    return parts[5]
