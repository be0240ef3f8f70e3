"""What the KMS API needs from a node: the values they exchange, the failures a node may report, one protocol.

Here: types only. Not here: HTTP codes (errors.py), and how a node does any of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import msgspec

from quorate.kms.http import Response, SignedRequest


class Role(StrEnum):
    """What an access key may do: `user` uses keys and reads their metadata, `admin` also manages them."""

    ADMIN = "admin"
    USER = "user"


class Identity(msgspec.Struct, frozen=True):
    """The access key whose signature was verified."""

    access_key_id: str
    name: str
    role: Role


class KeyState(StrEnum):
    """Key states, in AWS's words."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """Public view of one KMS key.

    `key_id`: UUID in lower case. `created`, `deletion_date`: seconds since 1970; a deletion date is set
    exactly in state `PendingDeletion`. `key_version`: of the backing key. `version`: of this record.
    """

    key_id: str
    domain: str
    state: KeyState
    created: float
    description: str = ""
    deletion_date: float | None = None
    key_version: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    @property
    def enabled(self) -> bool:
        return self.state is KeyState.ENABLED


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """An alias; `name` begins with `alias/`. Times in seconds since 1970."""

    name: str
    key_id: str
    created: float
    updated: float


class Call(msgspec.Struct):
    """One authenticated call under way: who asks, and what the audit line will say.

    `request_token` is the request's mark (64 hexadecimal digits; see `replay`). It is the same in a byte-identical
    repeat and differs in an SDK's retry. A backend keeps the tokens of calls that change state for ten
    minutes, fleet-wide, and raises `RequestReplayed` for one it has seen: the API's own cache sees one
    process only. The operation fills in `key_id` and `domain`, and `source_key_id` for ReEncrypt; the backend
    fills in `session_id` if a session served the call.
    """

    request_id: str
    identity: Identity
    operation: str
    request_token: str
    key_id: str = ""
    source_key_id: str = ""
    domain: str = ""
    session_id: str = ""


class Phase(StrEnum):
    """`intent` is written before a change of state, `outcome` before any answer leaves."""

    INTENT = "intent"
    OUTCOME = "outcome"


class AuditRecord(msgspec.Struct, frozen=True):
    """One line of the audit log. Never a secret: no plaintext, ciphertext, context, signature or unverified
    name.

    `outcome`: `OK`, an AWS error code, or `Forwarded` (the member that served it writes the line that tells).
    `access_key_id`, `name`, `role` are empty unless the signature was verified. `suppressed`: how many
    refusals of unauthenticated requests were not written since the last line, because they came too fast.
    """

    request_id: str
    operation: str
    outcome: str
    phase: Phase = Phase.OUTCOME
    access_key_id: str = ""
    name: str = ""
    role: str = ""
    key_id: str = ""
    source_key_id: str = ""
    domain: str = ""
    session_id: str = ""
    peer: str = ""
    suppressed: int = 0


class BackendError(Exception):
    """A failure that a backend reports. `detail` is shown to the client, or placed in a text that is."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class SignatureRejected(BackendError):
    """Unknown or disabled access key, or wrong signature; the verifier does not tell which (attack N77)."""


class InvalidCiphertext(BackendError):
    """The blob or the context is not what this key sealed; or the blob cannot be read."""


class KeyUnavailable(BackendError):
    """The key's domain cannot be used now: too few live holders, hub down without a lease, domain locked."""


class CannotServe(BackendError):
    """This node cannot serve the key's domain, but a member might: the API forwards the request."""


class DependencyTimeout(BackendError):
    """A part of the fleet did not answer in time; nothing is known to have changed."""


class KeyNotFound(BackendError):
    """`detail` is the key id."""


class AliasNotFound(BackendError):
    """`detail` is the alias name."""


class AliasExists(BackendError):
    """`detail` is the alias name."""


class UnknownDomain(BackendError):
    """`detail` is the domain's name as the client wrote it."""


class StateConflict(BackendError):
    """The record changed between the API's check and the backend's; `detail` says how, for the client."""


class LimitExceeded(BackendError):
    """A quota of the fleet is used up; `detail` names it for the client."""


class RequestReplayed(BackendError):
    """A call with this request token was accepted before, here or on another node."""


class SignatureChecker(Protocol):
    """The module's half of SigV4: it holds the access secrets and computes the HMAC."""

    async def check(
        self, access_key_id: str, date: str, region: str, service: str, string_to_sign: bytes, signature: str
    ) -> Identity:
        """`date`: YYYYMMDD of the scope. `signature`: 64 lower-case hexadecimal digits, compared in constant
        time.

        Raises `SignatureRejected`, after the same work, for an unknown or disabled key and for a wrong
        signature.
        """
        ...


class Backend(Protocol):
    """What a node does for the API. Every method may raise `KeyUnavailable`, `CannotServe`,
    `DependencyTimeout`.

    Methods that change state also raise `RequestReplayed` (see `Call`), `KeyNotFound` and `StateConflict`,
    and return once the change is durable. Lists are in ascending order of key id or alias name, start after
    `after` (exclusive; None: at the beginning), and hold at most `limit` entries.
    """

    async def can_serve(self) -> bool:
        """True while this node can serve or forward."""
        ...

    async def create_key(
        self, call: Call, domain: str, description: str, tags: Mapping[str, str]
    ) -> KeyRecord:
        """Raises `UnknownDomain`, `LimitExceeded`."""
        ...

    async def get_key(self, key_id: str) -> KeyRecord | None: ...

    async def list_keys(self, after: str | None, limit: int) -> Sequence[KeyRecord]: ...

    async def set_enabled(self, call: Call, key_id: str, enabled: bool) -> KeyRecord: ...

    async def schedule_deletion(self, call: Call, key_id: str, at: float) -> KeyRecord:
        """`at`: seconds since 1970."""
        ...

    async def cancel_deletion(self, call: Call, key_id: str) -> KeyRecord:
        """The key is disabled afterwards."""
        ...

    async def create_alias(self, call: Call, name: str, key_id: str) -> AliasRecord:
        """Raises `AliasExists`, `LimitExceeded`."""
        ...

    async def delete_alias(self, call: Call, name: str) -> None:
        """Raises `AliasNotFound`."""
        ...

    async def list_aliases(
        self, key_id: str | None, after: str | None, limit: int
    ) -> Sequence[AliasRecord]: ...

    async def resolve_alias(self, name: str) -> str | None:
        """The key id that the alias names."""
        ...

    def blob_key_id(self, blob: bytes) -> str:
        """The key id that a ciphertext names, unverified. Raises `InvalidCiphertext`."""
        ...

    async def encrypt(
        self, call: Call, key: KeyRecord, plaintext: bytes, context: Mapping[str, str]
    ) -> bytes: ...

    async def decrypt(self, call: Call, key: KeyRecord, blob: bytes, context: Mapping[str, str]) -> bytes:
        """Raises `InvalidCiphertext`."""
        ...

    async def reencrypt(
        self,
        call: Call,
        source: KeyRecord,
        blob: bytes,
        source_context: Mapping[str, str],
        destination: KeyRecord,
        destination_context: Mapping[str, str],
    ) -> bytes:
        """The plaintext stays in the module. Raises `InvalidCiphertext`."""
        ...

    async def generate_data_key(
        self, call: Call, key: KeyRecord, size: int, context: Mapping[str, str], with_plaintext: bool
    ) -> tuple[bytes | None, bytes]:
        """(plaintext or None, blob); `size` in bytes, 1 to 1024."""
        ...

    async def random(self, call: Call, size: int) -> bytes:
        """`size` bytes, 1 to 1024."""
        ...

    async def audit(self, record: AuditRecord) -> None:
        """Returns once the line is durable. Raises anything if it cannot be: the call is then refused."""
        ...

    async def forward(self, request: SignedRequest) -> Response:
        """Hands the request as it was signed to a member, whose `KmsApp.handle` verifies it again.

        Raises `KeyUnavailable` if no member answers.
        """
        ...
