"""Whose lease a call takes, while a domain's key is rotated."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from quorate import _core
from quorate.ids import DomainId, NodeId
from quorate.kms import backend as api
from quorate.kms.backend import Call, Identity, KeyRecord, KeyState, Role
from quorate.node.backend import NodeBackend
from quorate.node.forward import need

FIRST, SECOND = DomainId("payroll"), DomainId("payroll.2")
KEY = KeyRecord("00000000-0000-4000-8000-000000000001", "payroll", KeyState.ENABLED, 0.0)


def no_lease() -> _core.CoreError:
    error = _core.CoreError("no_lease")
    error.code, error.message, error.culprits = "no_lease", "no_lease", []
    return error


class Node:
    """A backend whose module uses the key under the sharings of `under`, one after another; the last one stays."""

    def __init__(self, *under: DomainId, held: set[DomainId]) -> None:
        self.under = list(under)
        self.leases: set[DomainId] = set()
        self.got: list[DomainId] = []
        self.used: list[DomainId] = []
        self.current = {name: SimpleNamespace(domain=name, serves=name in held) for name in (FIRST, SECOND)}
        module: Any = SimpleNamespace(
            key_sharings=lambda _key: (self._next().value, SECOND.value),
            encrypt=lambda *_: self._use(),
            make_key=lambda **_: self._use(SECOND),
            lease=lambda name: {} if DomainId(name) in self.leases else None,
        )
        sessions: Any = SimpleNamespace(lease=self._open, used=self.used.append)
        epochs: Any = SimpleNamespace(
            current=self.current,
            newest={FIRST: self.current[SECOND]},
            serves=lambda name: self.current[name].serves,
        )
        records: Any = SimpleNamespace(
            keys={KEY.key_id: KEY}, aliases={}, allowed={FIRST: frozenset({NodeId("a")})}
        )
        journal: Any = None
        self.backend = NodeBackend(module, sessions, records, epochs, journal, lambda: 0.0)
        self.call = Call("id", Identity("AK", "root", Role.ADMIN), "Encrypt", "token")

    def _next(self) -> DomainId:
        self.now = self.under.pop(0) if len(self.under) > 1 else self.under[0]
        return self.now

    def _use(self, name: DomainId | None = None) -> bytes:
        if (name or self.now) not in self.leases:
            raise no_lease()
        return b"done"

    async def _open(self, domain: DomainId) -> None:
        self.got.append(domain)
        self.leases.add(domain)


def test_a_key_that_is_wrapped_anew_meanwhile_is_used_under_its_new_version() -> None:
    node = Node(FIRST, SECOND, held={FIRST, SECOND})
    assert asyncio.run(node.backend.encrypt(node.call, KEY, b"x", {})) == b"done"
    assert (node.got, node.used) == ([FIRST, SECOND], [SECOND])


def test_a_node_without_a_share_of_the_keys_version_leaves_the_call_to_a_member_of_it() -> None:
    async def main() -> None:
        node = Node(SECOND, held={FIRST})
        node.leases = {FIRST, SECOND}
        with pytest.raises(api.CannotServe):
            await node.backend.encrypt(node.call, KEY, b"x", {})
        wanted = need.get()
        assert wanted is not None
        assert wanted.domain == SECOND

    asyncio.run(main())


def test_a_new_key_takes_a_lease_of_the_newest_version() -> None:
    node = Node(FIRST, held={FIRST, SECOND})
    proposed: list[bytes] = []

    async def propose(_call: Call, statement: bytes) -> bool:
        proposed.append(statement)
        return True

    node.backend._propose = propose  # type: ignore[method-assign,assignment]
    with pytest.raises(api.KeyNotFound):  # no record of it comes back here
        asyncio.run(node.backend.create_key(node.call, "payroll", "", {}))
    assert (node.got, proposed) == ([SECOND], [b"done"])


def test_no_client_names_a_key_version() -> None:
    node = Node(FIRST, held={FIRST, SECOND})
    with pytest.raises(api.UnknownDomain):
        asyncio.run(node.backend.create_key(node.call, "payroll.2", "", {}))
