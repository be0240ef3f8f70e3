"""What a node does for the KMS API: `kms.backend.Backend` over the module.

Here: a use of a lease, getting one first where there is none, changes of records through the hub, and the
core's error codes in the API's words.
Not here: AWS's formats and checks (`kms/`), sessions (`sessions`), who may serve instead (`forward`).
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from quorate import _core
from quorate.ids import DomainId, NodeId
from quorate.kms import backend as api
from quorate.kms.backend import AliasRecord, AuditRecord, Call, Identity, KeyRecord, KeyState, Role
from quorate.kms.http import Response, SignedRequest
from quorate.node.epochs import Epochs
from quorate.node.forward import TOTAL_SECONDS, Forwarder, Need, need
from quorate.node.journal import Journal
from quorate.node.records import NoResult, Records
from quorate.node.sessions import NoLease, Sessions
from quorate.wire.links import LinkDown

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ATTEMPTS = 3
"""How often a change is made anew when another change came first."""
_HUB_DOWN = "The request needs the fleet's hub, which cannot be reached now. You can retry the request."
_ROLES = {role.value: role for role in Role}
_OPENING = frozenset({"not_opened", "key_commitment", "bad_encoding", "too_large"})


_sharing = lru_cache(maxsize=1024)(DomainId)
"""There are few, and each call needs one."""


class Checker:
    """`kms.backend.SignatureChecker` over the module."""

    def __init__(self, module: _core.Module) -> None:
        self._module = module

    async def check(
        self, access_key_id: str, date: str, region: str, service: str, string_to_sign: bytes, signature: str
    ) -> Identity:
        try:
            user, role = self._module.check_signature(
                access_key_id, date, region, service, string_to_sign, signature
            )
        except _core.CoreError as why:
            if why.code == "bad_signature":
                raise api.SignatureRejected from None
            raise
        return Identity(access_key_id, user, _ROLES[role])


class NodeBackend:
    """`now`: the wall clock, in seconds since 1970."""

    def __init__(
        self,
        module: _core.Module,
        sessions: Sessions,
        records: Records,
        epochs: Epochs,
        journal: Journal,
        now: Callable[[], float],
    ) -> None:
        self._now = now
        self._module = module
        self._sessions = sessions
        self._records = records
        self._epochs = epochs
        self._journal = journal
        self.forwarder: Forwarder | None = None
        """Set once the API exists that it serves through."""

    def members(self, domain: DomainId) -> Iterable[NodeId]:
        """The committee of a sharing where this node knows it, else the nodes that the domain's charter allows."""
        current = self._epochs.current.get(domain)
        return self._records.allowed.get(domain.base, frozenset()) if current is None else current.committee

    async def can_serve(self) -> bool:
        if any(current.serves for current in self._epochs.current.values()):
            return True
        forwarder = self.forwarder
        return forwarder is not None and any(map(forwarder.can_reach, self._records.allowed))

    # Keys and aliases.

    async def create_key(
        self, call: Call, domain: str, description: str, tags: Mapping[str, str]
    ) -> KeyRecord:
        wanted = self._known_domain(domain)
        key_id = uuid.uuid4()

        def make() -> bytes:
            return self._module.make_key(
                key_id=key_id.bytes,
                domain=domain,
                description=description,
                tags=list(tags.items()),
                created=self._now_ms(),
            )

        await self._propose(call, await self._use(call, lambda: [self._newest(wanted)], make))
        return self._key(str(key_id))

    async def get_key(self, key_id: str) -> KeyRecord | None:
        return self._kept(key_id)

    async def list_keys(self, after: str | None, limit: int) -> Sequence[KeyRecord]:
        ids = (key_id for key_id in sorted(self._records.keys) if after is None or key_id > after)
        return [key for key_id in ids if (key := self._kept(key_id)) is not None][:limit]

    async def set_enabled(self, call: Call, key_id: str, enabled: bool) -> KeyRecord:
        def revise() -> bytes:
            self._refuse_state(key_id, KeyState.PENDING_DELETION, "is pending deletion")
            return self._revise(key_id, "enabled" if enabled else "disabled")

        await self._change(call, revise)
        return self._key(key_id)

    async def schedule_deletion(self, call: Call, key_id: str, at: float) -> KeyRecord:
        def revise() -> bytes:
            self._refuse_state(key_id, KeyState.PENDING_DELETION, "is pending deletion")
            return self._revise(key_id, "pending-deletion", int(at * 1000))

        await self._change(call, revise)
        return self._key(key_id)

    async def cancel_deletion(self, call: Call, key_id: str) -> KeyRecord:
        def revise() -> bytes:
            if self._key(key_id).state is not KeyState.PENDING_DELETION:
                raise api.StateConflict(f"{key_id} is not pending deletion.")
            return self._revise(key_id, "disabled")

        await self._change(call, revise)
        return self._key(key_id)

    async def create_alias(self, call: Call, name: str, key_id: str) -> AliasRecord:
        def revise() -> bytes:
            if self._alias(name) is not None:
                raise api.AliasExists(name)
            return self._module.revise_alias(name, target=_id(key_id), now=self._now_ms())

        await self._change(call, revise)
        found = self._records.aliases.get(name)
        if found is None:
            raise api.StateConflict(f"{name} was deleted meanwhile.")
        return found

    async def delete_alias(self, call: Call, name: str) -> None:
        def revise() -> bytes:
            if self._alias(name) is None:
                raise api.AliasNotFound(name)
            return self._module.revise_alias(name, target=None, now=self._now_ms())

        await self._change(call, revise)

    async def list_aliases(self, key_id: str | None, after: str | None, limit: int) -> Sequence[AliasRecord]:
        names = (name for name in sorted(self._records.aliases) if after is None or name > after)
        found = (alias for name in names if (alias := self._alias(name)) is not None)
        return [alias for alias in found if key_id is None or alias.key_id == key_id][:limit]

    async def resolve_alias(self, name: str) -> str | None:
        alias = self._alias(name)
        return None if alias is None else alias.key_id

    # Cryptography.

    def blob_key_id(self, blob: bytes) -> str:
        try:
            return str(uuid.UUID(bytes=self._module.blob_key(blob)))
        except _core.CoreError:
            raise api.InvalidCiphertext from None

    async def encrypt(
        self, call: Call, key: KeyRecord, plaintext: bytes, context: Mapping[str, str]
    ) -> bytes:
        id_, pairs = _id(key.key_id), list(context.items())
        return await self._use(
            call, lambda: self._sharings(id_), lambda: self._module.encrypt(id_, plaintext, pairs)
        )

    async def decrypt(self, call: Call, key: KeyRecord, blob: bytes, context: Mapping[str, str]) -> bytes:
        id_, pairs = _id(key.key_id), list(context.items())
        return await self._use(call, lambda: self._sharings(id_), lambda: self._module.decrypt(blob, pairs))

    async def reencrypt(
        self,
        call: Call,
        source: KeyRecord,
        blob: bytes,
        source_context: Mapping[str, str],
        destination: KeyRecord,
        destination_context: Mapping[str, str],
    ) -> bytes:
        pairs, new_pairs = list(source_context.items()), list(destination_context.items())
        origin, target = _id(source.key_id), _id(destination.key_id)

        def run() -> bytes:
            return self._module.reencrypt(blob, pairs, target, new_pairs)

        return await self._use(call, lambda: self._sharings(origin, target), run)

    async def generate_data_key(
        self, call: Call, key: KeyRecord, size: int, context: Mapping[str, str], with_plaintext: bool
    ) -> tuple[bytes | None, bytes]:
        id_, pairs = _id(key.key_id), list(context.items())
        return await self._use(
            call,
            lambda: self._sharings(id_),
            lambda: self._module.data_key(id_, size, pairs, plaintext=with_plaintext),
        )

    async def random(self, call: Call, size: int) -> bytes:
        return self._module.random(size)

    # The rest.

    async def audit(self, record: AuditRecord) -> None:
        await self._journal.kms(record)

    async def forward(self, request: SignedRequest) -> Response:
        if self.forwarder is None:
            raise api.KeyUnavailable
        return await self.forwarder.forward(request)

    # How a lease is used.

    async def _use(self, call: Call, needed: Callable[[], list[DomainId]], command: Callable[[], T]) -> T:
        """Runs a command under leases of the sharings that it needs, getting what is missing. Which ones, a rotation
        may change at any time.
        """
        begun = time.monotonic()
        for _ in range(_ATTEMPTS):
            try:
                names = needed()
                self._require_shares(names, begun)
                result = command()
            except _core.CoreError as why:
                if why.code != "no_lease":
                    raise _explained(why) from None
            else:
                for name in names:
                    self._sessions.used(name)
                return result
            need.set(Need(names[0], begun + TOTAL_SECONDS))
            for name in names:
                if self._module.lease(name.value) is None:
                    await self._get_lease(call, name)
        raise api.KeyUnavailable

    def _require_shares(self, names: Iterable[DomainId], begun: float) -> None:
        for name in names:
            if not self._epochs.serves(name):
                need.set(Need(name, begun + TOTAL_SECONDS))
                raise api.CannotServe

    def _sharings(self, *keys: bytes) -> list[DomainId]:
        """Whose leases a use of these keys takes, each once."""
        return sorted({_sharing(self._module.key_sharings(key)[0]) for key in keys})

    def _newest(self, domain: DomainId) -> DomainId:
        """The key version that a new key is wrapped under; of a domain without an epoch here, its first."""
        current = self._epochs.newest.get(domain)
        return domain if current is None else current.domain

    async def _get_lease(self, call: Call, domain: DomainId) -> None:
        try:
            session = await self._sessions.lease(domain)
        except NoLease as why:
            _log.info("no lease of %s for this request: %s", domain, why.why.code)
            # Another member may hold a lease still, or see the hub when this node does not.
            raise api.CannotServe(str(why)) from None
        call.session_id = "" if session is None else str(session)

    # How a record is changed.

    async def _change(self, call: Call, revise: Callable[[], bytes]) -> None:
        """Proposes what `revise` makes, anew when another change came first."""
        for _ in range(_ATTEMPTS):
            try:
                statement = revise()
            except _core.CoreError as why:
                raise _explained(why) from None
            if await self._propose(call, statement, again=True):
                return
        raise api.StateConflict("The record is being changed by others; retry the request.")

    async def _propose(self, call: Call, statement: bytes, again: bool = False) -> bool:
        """True once it is durable; False, where `again`, if another change came first and is known now."""
        try:
            result = await self._records.propose(statement, call.request_token)
        except LinkDown:
            raise api.KeyUnavailable(_HUB_DOWN) from None
        except NoResult:
            raise api.DependencyTimeout from None
        match result.code:
            case "ok":
                return True
            case "replayed":
                raise api.RequestReplayed
            case "stale_version" if again:
                return False
        raise api.StateConflict(f"The fleet refused the change: {result.reason} ({result.code})")

    def _revise(self, key_id: str, state: str, deletion: int | None = None) -> bytes:
        return self._module.revise_key(_id(key_id), state=state, deletion=deletion)

    def _kept(self, key_id: str) -> KeyRecord | None:
        """None also once the key's deletion date has come: nothing brings it back."""
        key = self._records.keys.get(key_id)
        if key is None or (key.deletion_date is not None and self._now() >= key.deletion_date):
            return None
        return key

    def _key(self, key_id: str) -> KeyRecord:
        key = self._kept(key_id)
        if key is None:
            raise api.KeyNotFound(key_id)
        return key

    def _alias(self, name: str) -> AliasRecord | None:
        """None also when its key's deletion date has come."""
        alias = self._records.aliases.get(name)
        return None if alias is None or self._kept(alias.key_id) is None else alias

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    def _refuse_state(self, key_id: str, state: KeyState, words: str) -> None:
        if self._key(key_id).state is state:
            raise api.StateConflict(f"{key_id} {words}.")

    def _known_domain(self, name: str) -> DomainId:
        try:
            domain = DomainId(name)
        except ValueError:
            raise api.UnknownDomain(name[:128]) from None
        if domain not in self._records.allowed:
            raise api.UnknownDomain(name)
        return domain


def _explained(why: _core.CoreError) -> api.BackendError:
    """A module's refusal in the API's words."""
    match why.code:
        case code if code in _OPENING:
            return api.InvalidCiphertext()
        case "no_lease" | "no_fleet_key":
            return api.KeyUnavailable()
        case "unknown_key" | "bad_state":
            return api.StateConflict(f"The key cannot be used: {why.message}.")
        case _:
            raise why


def _id(key_id: str) -> bytes:
    return bytes.fromhex(key_id.replace("-", ""))
