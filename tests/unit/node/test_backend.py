"""Who serves a call: this node under its lease, this node after a session, another member, or nobody."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from quorate import _core
from quorate.ids import HUB, DomainId, NodeId, SessionId
from quorate.kms import backend as api
from quorate.kms.backend import AliasRecord, Call, Identity, KeyRecord, KeyState, Role
from quorate.node.backend import NodeBackend
from quorate.node.forward import need
from quorate.node.records import NoResult, Result
from quorate.node.sessions import NoLease
from quorate.protocol.requester import Unavailable
from quorate.wire.links import LinkDown

DOMAIN = DomainId("payroll")
SESSION = SessionId(b"s" * 16)
KEY_ID = "00000000-0000-4000-8000-000000000001"
KEY = KeyRecord(KEY_ID, "payroll", KeyState.ENABLED, 0.0)


def core_error(code: str) -> _core.CoreError:
    error = _core.CoreError(code)
    error.code, error.message, error.culprits = code, code, []
    return error


class Node:
    """A backend whose module has a lease or not, and whose hub gives one or not."""

    def __init__(self, *, member: bool = True, lease: bool = False, session: object = SESSION) -> None:
        self.has_lease = lease
        self.session = session
        self.uses = 0
        self.result: Result | Exception = Result("ok", "")
        module: Any = SimpleNamespace(
            encrypt=self._encrypt,
            lease=self._lease,
            revise_key=self._revise,
            key_sharings=lambda _key: (DOMAIN.value, DOMAIN.value),
        )
        sessions: Any = SimpleNamespace(lease=self._open, used=self._used)
        current = {DOMAIN: SimpleNamespace(serves=member)}
        epochs: Any = SimpleNamespace(current=current, serves=lambda domain: current[domain].serves)
        records: Any = SimpleNamespace(
            keys={KEY_ID: KEY}, aliases={}, allowed={DOMAIN: frozenset({NodeId("a")})}, propose=self._propose
        )
        journal: Any = None
        self.now = 1000.0
        self.keys, self.aliases = records.keys, records.aliases
        self.backend = NodeBackend(module, sessions, records, epochs, journal, lambda: self.now)
        self.call = Call("id", Identity("AK", "root", Role.ADMIN), "Encrypt", "token")

    def _encrypt(self, *_: object) -> bytes:
        if not self.has_lease:
            raise core_error("no_lease")
        return b"blob"

    def _lease(self, _domain: str) -> object:
        return {} if self.has_lease else None

    def _revise(self, *_: object, **__: object) -> bytes:
        return b"statement"

    def _used(self, domain: DomainId) -> None:
        assert domain == DOMAIN
        self.uses += 1

    async def _open(self, domain: DomainId) -> object:
        assert domain == DOMAIN
        if isinstance(self.session, Exception):
            raise self.session
        self.has_lease = True
        return self.session

    async def _propose(self, _statement: bytes, token: str) -> Result:
        assert token == "token"
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def encrypt(self) -> bytes:
        return asyncio.run(self.backend.encrypt(self.call, KEY, b"x", {}))


def test_call_under_a_lease_opens_no_session() -> None:
    node = Node(lease=True, session=AssertionError("a session was opened"))
    assert node.encrypt() == b"blob"
    assert (node.uses, node.call.session_id) == (1, "")


def test_call_without_a_lease_gets_one_and_names_its_session() -> None:
    node = Node()
    assert node.encrypt() == b"blob"
    assert (node.uses, node.call.session_id) == (1, str(SESSION))


def test_node_outside_the_domain_leaves_the_call_to_a_member() -> None:
    async def main() -> None:
        node = Node(member=False, lease=True)
        with pytest.raises(api.CannotServe):
            await node.backend.encrypt(node.call, KEY, b"x", {})
        wanted = need.get()
        assert wanted is not None
        assert wanted.domain == DOMAIN

    asyncio.run(main())


def test_node_without_a_quorum_leaves_the_call_to_a_member() -> None:
    with pytest.raises(api.CannotServe):
        Node(session=NoLease(Unavailable("hub_down", "the hub cannot be reached"))).encrypt()


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (LinkDown(HUB, "there is no link"), api.KeyUnavailable),
        (NoResult(), api.DependencyTimeout),
        (Result("replayed", ""), api.RequestReplayed),
        (Result("stale_version", ""), api.StateConflict),
        (Result("not_authorized", ""), api.StateConflict),
    ],
)
def test_change_that_the_hub_does_not_take(result: Result | Exception, error: type[Exception]) -> None:
    node = Node()
    node.result = result
    with pytest.raises(error):
        asyncio.run(node.backend.set_enabled(node.call, KEY_ID, True))


def test_key_is_gone_with_its_aliases_once_its_deletion_date_has_come() -> None:
    async def main() -> None:
        node = Node()
        node.keys[KEY_ID] = replace(KEY, state=KeyState.PENDING_DELETION, deletion_date=2000.0)
        node.aliases["alias/old"] = AliasRecord("alias/old", KEY_ID, 0.0, 0.0)
        for node.now, is_there in ((1999.9, True), (2000.0, False)):
            assert (await node.backend.get_key(KEY_ID) is not None) == is_there
            assert len(await node.backend.list_keys(None, 10)) == is_there
            assert len(await node.backend.list_aliases(None, None, 10)) == is_there
            assert (await node.backend.resolve_alias("alias/old") is not None) == is_there
        for change in (
            node.backend.cancel_deletion(node.call, KEY_ID),
            node.backend.set_enabled(node.call, KEY_ID, True),
            node.backend.schedule_deletion(node.call, KEY_ID, 9000.0),
        ):
            with pytest.raises(api.KeyNotFound):
                await change
        with pytest.raises(api.AliasNotFound):
            await node.backend.delete_alias(node.call, "alias/old")

    asyncio.run(main())
