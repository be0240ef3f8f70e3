"""An in-memory backend with real AES-256-GCM, and a signature checker that holds access secrets in the clear.

For tests of the API alone; it keeps what it was told, and fails on demand.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quorate.kms.backend import (
    AliasExists,
    AliasNotFound,
    AliasRecord,
    AuditRecord,
    Call,
    Identity,
    InvalidCiphertext,
    KeyRecord,
    KeyState,
    KeyUnavailable,
    RequestReplayed,
    Role,
    SignatureRejected,
    UnknownDomain,
)
from quorate.kms.http import Response, SignedRequest

ADMIN = Identity("AKIAADMINADMINADMIN1", "root", Role.ADMIN)
USER = Identity("AKIAUSERUSERUSERUSER", "alice", Role.USER)
SECRETS = {ADMIN.access_key_id: "admin-secret/canary-7f3a", USER.access_key_id: "user-secret/canary-91cc"}


class FakeChecker:
    """Computes the HMAC that the module computes in the real product."""

    def __init__(self) -> None:
        self._known = {who.access_key_id: who for who in (ADMIN, USER)}
        self.calls = 0

    async def check(
        self, access_key_id: str, date: str, region: str, service: str, string_to_sign: bytes, signature: str
    ) -> Identity:
        self.calls += 1
        key = b"AWS4" + SECRETS.get(access_key_id, "no such key").encode()
        for part in (date, region, service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        right = hmac.compare_digest(hmac.digest(key, string_to_sign, "sha256").hex(), signature)
        if not right or access_key_id not in self._known:
            raise SignatureRejected
        return self._known[access_key_id]


def _aad(key_id: str, context: Mapping[str, str]) -> bytes:
    return repr((key_id, sorted(context.items()))).encode()


class FakeBackend:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.keys: dict[str, KeyRecord] = {}
        self.material: dict[str, bytes] = {}
        self.aliases: dict[str, AliasRecord] = {}
        self.audited: list[AuditRecord] = []
        self.events: list[str] = []  # audit lines and changes, in order
        self.tokens: set[str] = set()
        self.serving = True
        self.fail_with: Exception | None = None  # raised by every cryptographic method
        self.audit_fails: str = ""  # phase whose lines cannot be written
        self.forwarded: list[SignedRequest] = []
        self.forward_to: Response | Exception = KeyUnavailable()

    async def can_serve(self) -> bool:
        return self.serving

    def _changed(self, call: Call, what: str) -> None:
        if call.request_token in self.tokens:
            raise RequestReplayed
        self.tokens.add(call.request_token)
        self.events.append(what)

    async def create_key(
        self, call: Call, domain: str, description: str, tags: Mapping[str, str]
    ) -> KeyRecord:
        if domain not in ("default", "payroll"):
            raise UnknownDomain(domain)
        self._changed(call, "create_key")
        key = KeyRecord(str(uuid.uuid4()), domain, KeyState.ENABLED, self.now, description, tags=dict(tags))
        self.keys[key.key_id] = key
        self.material[key.key_id] = os.urandom(32)
        return key

    async def get_key(self, key_id: str) -> KeyRecord | None:
        return self.keys.get(key_id)

    async def list_keys(self, after: str | None, limit: int) -> Sequence[KeyRecord]:
        return [self.keys[name] for name in sorted(self.keys) if after is None or name > after][:limit]

    def _set(self, key_id: str, state: KeyState, at: float | None = None) -> KeyRecord:
        old = self.keys[key_id]
        self.keys[key_id] = replace(old, state=state, deletion_date=at, version=old.version + 1)
        return self.keys[key_id]

    async def set_enabled(self, call: Call, key_id: str, enabled: bool) -> KeyRecord:
        self._changed(call, "set_enabled")
        return self._set(key_id, KeyState.ENABLED if enabled else KeyState.DISABLED)

    async def schedule_deletion(self, call: Call, key_id: str, at: float) -> KeyRecord:
        self._changed(call, "schedule_deletion")
        return self._set(key_id, KeyState.PENDING_DELETION, at)

    async def cancel_deletion(self, call: Call, key_id: str) -> KeyRecord:
        self._changed(call, "cancel_deletion")
        return self._set(key_id, KeyState.DISABLED)

    async def create_alias(self, call: Call, name: str, key_id: str) -> AliasRecord:
        if name in self.aliases:
            raise AliasExists(name)
        self._changed(call, "create_alias")
        self.aliases[name] = AliasRecord(name, key_id, self.now, self.now)
        return self.aliases[name]

    async def delete_alias(self, call: Call, name: str) -> None:
        if name not in self.aliases:
            raise AliasNotFound(name)
        self._changed(call, "delete_alias")
        del self.aliases[name]

    async def list_aliases(self, key_id: str | None, after: str | None, limit: int) -> Sequence[AliasRecord]:
        found = [self.aliases[name] for name in sorted(self.aliases) if after is None or name > after]
        return [alias for alias in found if key_id is None or alias.key_id == key_id][:limit]

    async def resolve_alias(self, name: str) -> str | None:
        return self.aliases[name].key_id if name in self.aliases else None

    def blob_key_id(self, blob: bytes) -> str:
        if len(blob) < 16 + 12 + 16:
            raise InvalidCiphertext
        return str(uuid.UUID(bytes=blob[:16]))

    def _fail(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with

    def _seal(self, key_id: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        nonce = os.urandom(12)
        sealed = AESGCM(self.material[key_id]).encrypt(nonce, plaintext, _aad(key_id, context))
        return uuid.UUID(key_id).bytes + nonce + sealed

    def _open(self, key_id: str, blob: bytes, context: Mapping[str, str]) -> bytes:
        try:
            return AESGCM(self.material[key_id]).decrypt(blob[16:28], blob[28:], _aad(key_id, context))
        except InvalidTag:
            raise InvalidCiphertext from None

    async def encrypt(
        self, call: Call, key: KeyRecord, plaintext: bytes, context: Mapping[str, str]
    ) -> bytes:
        self._fail()
        call.session_id = "session-1"
        return self._seal(key.key_id, plaintext, context)

    async def decrypt(self, call: Call, key: KeyRecord, blob: bytes, context: Mapping[str, str]) -> bytes:
        self._fail()
        return self._open(key.key_id, blob, context)

    async def reencrypt(
        self,
        call: Call,
        source: KeyRecord,
        blob: bytes,
        source_context: Mapping[str, str],
        destination: KeyRecord,
        destination_context: Mapping[str, str],
    ) -> bytes:
        self._fail()
        return self._seal(
            destination.key_id, self._open(source.key_id, blob, source_context), destination_context
        )

    async def generate_data_key(
        self, call: Call, key: KeyRecord, size: int, context: Mapping[str, str], with_plaintext: bool
    ) -> tuple[bytes | None, bytes]:
        self._fail()
        self.events.append("generate_data_key")
        plaintext = os.urandom(size)
        return (plaintext if with_plaintext else None), self._seal(key.key_id, plaintext, context)

    async def random(self, call: Call, size: int) -> bytes:
        self._fail()
        return os.urandom(size)

    async def audit(self, record: AuditRecord) -> None:
        if record.phase == self.audit_fails:
            raise OSError(28, "No space left on device")
        self.audited.append(record)
        self.events.append(f"{record.phase}:{record.operation}:{record.outcome}")

    async def forward(self, request: SignedRequest) -> Response:
        self.forwarded.append(request)
        if isinstance(self.forward_to, Exception):
            raise self.forward_to
        return self.forward_to


def body_digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
