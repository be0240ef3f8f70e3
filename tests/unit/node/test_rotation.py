"""A member's part in a rotation: what it tells the hub, and what it does when something is missing."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

from quorate import _core
from quorate.ids import HUB, DomainId, NodeId
from quorate.node.records import NoResult, Result
from quorate.node.rotation import Rotations
from quorate.node.sessions import NoLease
from quorate.protocol.requester import Unavailable

FIRST, SECOND = DomainId("payroll"), DomainId("payroll.2")
K1, K2, K3 = (bytes([number]) * 16 for number in (1, 2, 3))


def core_error(code: str, *culprits: str) -> _core.CoreError:
    error = _core.CoreError(code)
    error.code, error.message, error.culprits = code, code, list(culprits)
    return error


class Node:
    """A member whose module does what it is told to; `said` is what the hub hears."""

    def __init__(self) -> None:
        self.leases = {FIRST, SECOND}
        self.fails: dict[bytes, _core.CoreError] = {}
        self.results: dict[bytes, Result | Exception] = {}
        self.clean: bytes | _core.CoreError = b"clean"
        self.dropped: bytes | _core.CoreError = b"dropped"
        self.no_lease: NoLease | None = None
        self.said: list[tuple[Any, ...]] = []
        self.did: list[Any] = []
        self.tasks: list[asyncio.Task[None]] = []
        module: Any = SimpleNamespace(
            newest_sharing=lambda _domain: SECOND.value,
            key_sharings=lambda _key: (FIRST.value, SECOND.value),
            unchecked_keys=lambda _domain: [K1, K2],
            rewrap_key=lambda key: self._use("rewrap", key),
            check_rewrapped=lambda key: self._use("check", key),
            clean=lambda *_: self._or_raise(self.clean),
            drop_version=lambda _cleans: self._or_raise(self.dropped),
            verify=lambda _clean: {"domain": FIRST.value, "key_version": 1},
            lease=lambda name: {} if DomainId(name) in self.leases else None,
        )
        hsm: Any = SimpleNamespace(module=module, slow=self._slow)
        fleet: Any = SimpleNamespace(spawn=self._spawn, post=self._post)
        journal: Any = SimpleNamespace(key_version=lambda *told: self.did.append(("noted", *told[2:])))
        sessions: Any = SimpleNamespace(
            lease=self._lease, used=lambda _name: None, forget_lease=lambda name: self.did.append(name)
        )
        records: Any = SimpleNamespace(propose=self._propose)
        self.current = {FIRST: None, SECOND: None}
        epochs: Any = SimpleNamespace(
            current=self.current, serves=lambda name: name in self.current, refresh=lambda: None
        )
        self.rotations = Rotations(
            hsm, fleet, journal, sessions, records, epochs, lambda: self.did.append("dropped")
        )

    def _use(self, what: str, key: bytes) -> bytes:
        if self.leases != {FIRST, SECOND}:
            raise core_error("no_lease")
        if key in self.fails:
            raise self.fails[key]
        self.did.append((what, key))
        return key

    def _or_raise(self, made: bytes | _core.CoreError) -> bytes:
        if isinstance(made, _core.CoreError):
            raise made
        return made

    async def _slow(self, command: Any, *arguments: Any) -> Any:
        return command(*arguments)

    async def _lease(self, name: DomainId) -> None:
        if self.no_lease is not None:
            raise self.no_lease
        self.leases.add(name)

    async def _propose(self, statement: bytes, token: str) -> Result:
        assert token == ""
        result = self.results.get(statement, Result("ok", ""))
        if isinstance(result, Exception):
            raise result
        return result

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def _post(self, to: NodeId, kind: str, *fields: object) -> None:
        assert to == HUB
        self.said.append((kind, *fields))

    def hears(self, *messages: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        async def main() -> None:
            self.tasks = []
            for kind, fields in messages:
                getattr(self.rotations, f"_on_{kind}")(HUB, fields)
            await asyncio.gather(*self.tasks)

        asyncio.run(main())
        return self.said


REWRAP = ("rewrap", ["payroll", 2, [K1, K2, K3]])
CHECK = ("check", ["payroll", 1])
DROP = ("drop", [[b"clean a", b"clean b"]])


def test_keys_are_wrapped_anew_and_ordered_one_after_another() -> None:
    node = Node()
    assert node.hears(REWRAP) == [("key/rewrapped", "payroll", 2, [K1, K2, K3], "ok", "")]
    assert node.did == [("rewrap", K1), ("rewrap", K2), ("rewrap", K3)]


def test_a_key_that_another_change_came_first_for_is_left_and_one_that_is_done_is_not() -> None:
    node = Node()
    node.results[K1] = Result("stale_version", "another change came first")
    node.fails[K2] = core_error("bad_state")
    assert node.hears(REWRAP) == [("key/rewrapped", "payroll", 2, [K2, K3], "ok", "")]


def test_missing_leases_are_got() -> None:
    node = Node()
    node.leases = set()
    assert node.hears(REWRAP)[0][3:] == ([K1, K2, K3], "ok", "")


def test_what_keeps_it_from_more_is_told_with_what_is_done() -> None:
    node = Node()
    node.results[K2] = NoResult()
    ((_, _, _, done, code, _),) = node.hears(REWRAP)
    assert (done, code) == ([K1], "no_result")
    node = Node()
    node.leases, node.no_lease = set(), NoLease(Unavailable("expired", "too few holders"))
    ((_, _, _, done, code, reason),) = node.hears(REWRAP)
    assert (done, code, reason) == ([], "expired", "too few holders")
    node = Node()
    node.leases = {FIRST}
    del node.current[SECOND]
    assert node.hears(REWRAP)[0][4] == "not_a_member"


def test_a_node_that_does_not_know_the_new_version_wraps_nothing() -> None:
    ((_, _, to, done, code, _),) = Node().hears(("rewrap", ["payroll", 3, [K1]]))
    assert (to, done, code) == (3, [], "wrong_epoch")


def test_it_says_that_it_is_clean_after_it_has_compared_everything_and_once_while_it_does() -> None:
    node = Node()
    assert node.hears(CHECK, CHECK) == [("key/clean", b"clean")]
    assert node.did == [("check", K1), ("check", K2)]
    assert node.hears(CHECK) == [("key/clean", b"clean"), ("key/clean", b"clean")], "when it is asked again"


def test_wrong_tokens_are_all_told_with_whoever_is_to_blame() -> None:
    node = Node()
    node.fails = {K1: core_error("wrong_material", "b"), K2: core_error("wrong_material")}
    ((kind, domain, version, code, _, culprits, keys),) = node.hears(CHECK)
    assert (kind, domain, version, code) == ("key/refused", "payroll", 1, "wrong_material")
    assert (culprits, keys) == (["b"], [K1, K2])
    assert node.did == [
        ("noted", "wrong-material", K1.hex(), ["b"]),
        ("noted", "wrong-material", K2.hex(), []),
    ]


def test_what_keeps_it_from_comparing_or_dropping_is_told() -> None:
    node = Node()
    node.fails[K2] = core_error("no_fleet_key")
    assert [said[:4] for said in node.hears(CHECK)] == [("key/refused", "payroll", 1, "no_fleet_key")]
    node = Node()
    node.clean = core_error("bad_state")
    assert [said[:4] for said in node.hears(CHECK)] == [("key/refused", "payroll", 1, "bad_state")]
    node = Node()
    node.dropped = core_error("not_enough_shares")
    assert [said[:4] for said in node.hears(DROP)] == [("key/refused", "payroll", 1, "not_enough_shares")]
    assert "dropped" not in node.did


def test_before_it_drops_it_compares_and_after_it_forgets_the_old_lease() -> None:
    node = Node()
    assert node.hears(DROP) == [("key/dropped", b"dropped")]
    assert node.did == [("check", K1), ("check", K2), FIRST, ("noted", "dropped"), "dropped"]
