"""Records in the hub's order: charters, access keys and their seals, KMS keys, aliases (docs/protocols/messages.md,
"Records").

Here: one sequence for the whole fleet, compare-and-set on versions, who has which record yet.
Not here: whether a record is good: the hub's own module verifies it like every other one. But a module has no
wall clock: that nothing brings a key back after its deletion date is checked here.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from quorate import _core
from quorate.errors import StorageFailed
from quorate.host.dispatch import Dispatch, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.hub.journal import Journal
from quorate.hub.nodes import Nodes
from quorate.ids import Instant, NodeId
from quorate.store.database import Conflict, Database, Record, Spent
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

SPREAD_SECONDS = 0.5
"""How long a result waits for live nodes to have its record; those that are slower get it all the same."""
_BATCH = 200
_BATCH_BYTES = 512 * 1024
_AGAIN_SECONDS = 0.5

_NAMES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "quorate/v1/domain/charter": ("charter", lambda seen: str(seen["domain"])),
    "quorate/v1/access/key": ("access", lambda seen: str(seen["access_key_id"])),
    "quorate/v1/record/key": ("key", lambda seen: str(UUID(bytes=seen["key_id"]))),
    "quorate/v1/record/alias": ("alias", lambda seen: str(seen["alias"])),
    "quorate/v1/access/seal": (
        "seal",
        lambda seen: f"{seen['access_key_id']}/{seen['access_version']}/{seen['fleet_epoch']}",
    ),
}


class RecordRefused(Exception):
    """`code` names why; `current`: the version that stands instead, if there is one."""

    def __init__(self, code: str, reason: str, current: bytes | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.current = current


@dataclass(frozen=True, slots=True)
class Named:
    kind: str
    name: str
    version: int


def named(statement: bytes) -> Named:
    """What a statement is a record of. Raises `RecordRefused`."""
    try:
        try:
            seen = _core.view(statement)
        except _core.CoreError:
            seen = _core.view_approved(statement)
        kind, name = _NAMES[seen["label"]]
    except (_core.CoreError, KeyError) as why:
        raise RecordRefused("wrong_kind", "this is no record") from why
    return Named(kind, name(seen), seen.get("version", 1))


class Records:
    """`now`: the wall clock, in seconds since 1970."""

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        database: Database,
        nodes: Nodes,
        now: Callable[[], float],
    ) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._database = database
        self._nodes = nodes
        self._now = now
        self._turn = asyncio.Lock()
        self._spread = asyncio.Condition()
        self._sent: dict[NodeId, tuple[int, Instant]] = {}
        self._tokens: dict[bytes, tuple[str, int]] = {}
        """Of each key that has material: its domain, and the key version that its token is under."""
        self.versions: Callable[[str], tuple[int, int] | None] = lambda _domain: None
        """The key versions of a domain, from and to, that a token may name; None where any may."""
        self.last = 0

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("record/propose", 3, self._on_propose, hub_only=False)

    async def load(self) -> None:
        """Puts into order what the module had learnt when a crash kept it from the database."""
        known = {record.statement for record in await self._database.records(0, 1 << 40)}
        for kind in ("charter", "access", "key", "alias", "seal"):
            for statement in self._hsm.module.records(kind):
                if statement not in known:
                    what = named(statement)
                    await self._database.append_record(what.kind, what.name, what.version, statement)
                if kind == "key":
                    self._index(statement)
        self.last = await self._database.last_sequence()

    async def add(self, statement: bytes, *, token: str = "", by: str) -> int:
        """Orders a record, and returns its sequence number once live nodes have it, or had time to.

        `token`: the signature of the request behind it, spent once. `by`: who asks, for the audit log. Raises
        `RecordRefused`, `StorageFailed`.
        """
        what = named(statement)
        async with self._turn:
            if token and await self._database.is_spent(token):
                raise RecordRefused("replayed", "this request was carried out before")
            await self._check_turn(what, statement)
            await self._journal.note("record", kind=what.kind, name=what.name, version=what.version, node=by)
            (outcome,) = await self._hsm.slow(self._hsm.module.learn, [statement])
            if outcome not in ("new", "known"):
                raise RecordRefused(outcome, f"the record was refused: {outcome}", self._current(what))
            try:
                sequence = await self._database.append_record(
                    what.kind, what.name, what.version, statement, spend=token, now=int(self._now())
                )
            except Spent:
                raise RecordRefused("replayed", "this request was carried out before") from None
            except Conflict:
                raise RecordRefused(
                    "stale_version", "another change came first", self._current(what)
                ) from None
            if what.kind == "key":
                self._index(statement)
            self.last = max(self.last, sequence)
            for node in self._fleet.up:
                self._send(node, sequence, sequence, [statement])
        await self._until_spread(sequence)
        return sequence

    async def _check_turn(self, what: Named, statement: bytes) -> None:
        """A module that missed versions takes a later one; the order itself has every version, from 1."""
        known = await self._database.current(what.kind, what.name)
        if known is not None and known.statement == statement:
            return
        if what.version != (0 if known is None else known.version) + 1:
            current = None if known is None else known.statement
            raise RecordRefused("stale_version", f"version {what.version} is not the next one", current)
        if what.kind == "key":
            self._check_version(None if known is None else known.statement, statement)
        if what.kind == "key" and known is not None:
            self._check_deletion(known.statement, statement)

    def _check_version(self, known: bytes | None, statement: bytes) -> None:
        """A token that is new is under a key version that there is, and will be: members count on it when they drop
        an old one.
        """
        seen = _core.view(statement)
        token = seen["token"]
        versions = self.versions(seen["domain"])
        if token is None or versions is None or (known and _core.view(known)["token"] == token):
            return
        lowest, newest = versions
        if not lowest <= (version := _core.token_key_version(token)) <= newest:
            raise RecordRefused("bad_state", f"no key is wrapped under key version {version} now")

    async def is_past_deletion(self, key_id: str) -> bool:
        """Whether the key's deletion date has come: it takes no change any more but to be deleted."""
        known = await self._database.current("key", key_id)
        deletion = None if known is None else _core.view(known.statement)["deletion"]
        return deletion is not None and self._now() >= deletion / 1000

    def _check_deletion(self, known: bytes, statement: bytes) -> None:
        """The hub's clock decides too: that of the node which made the change may be behind."""
        deletion = _core.view(known)["deletion"]
        if deletion is None or self._now() < deletion / 1000:
            return
        if _core.view(statement)["state"] != "deleted":
            raise RecordRefused("bad_state", "the key's deletion date has come")

    # Which key version each key is under.

    def _index(self, statement: bytes) -> None:
        seen = _core.view(statement)
        if seen["token"] is None:
            self._tokens.pop(seen["key_id"], None)
        else:
            self._tokens[seen["key_id"]] = (seen["domain"], _core.token_key_version(seen["token"]))

    def count_keys(self, domain: str, version: int) -> tuple[int, int]:
        """How many keys the domain has, and how many of them are under an older key version than this."""
        under = [known for name, known in self._tokens.values() if name == domain]
        return len(under), sum(known < version for known in under)

    def keys_below(self, domain: str, version: int, limit: int) -> tuple[bytes, ...]:
        """Some of those."""
        old = (key for key, (name, known) in self._tokens.items() if name == domain and known < version)
        return tuple(islice(old, limit))

    async def settled(self) -> None:
        """Returns when whatever is being ordered now has its place."""
        async with self._turn:
            pass

    def _current(self, what: Named) -> bytes | None:
        for statement in self._hsm.module.records(what.kind):  # type: ignore[arg-type]
            if named(statement).name == what.name:
                return statement
        return None

    async def _until_spread(self, sequence: int) -> None:
        def everywhere() -> bool:
            return all(self._nodes.known[node].sequence >= sequence for node in self._nodes.live)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SPREAD_SECONDS), self._spread:
                await self._spread.wait_for(everywhere)

    def node_changed(self, name: NodeId) -> None:
        """A heartbeat came: whoever waits for it looks again, and a node that lacks records gets them."""
        node = self._nodes.known[name]
        self._fleet.spawn(self._notify())
        if not node.linked:
            self._sent.pop(name, None)
            return
        sent, at = self._sent.get(name, (0, float("-inf")))
        now = time.monotonic()
        if node.sequence >= self.last or (sent > node.sequence and now - at < _AGAIN_SECONDS):
            return
        self._sent[name] = (self.last, now)
        self._fleet.spawn(self._catch_up(name, node.sequence))

    async def _notify(self) -> None:
        async with self._spread:
            self._spread.notify_all()

    async def _catch_up(self, name: NodeId, after: int) -> None:
        while found := await self._database.records(after, _BATCH):
            batch = _fitting(found)
            after = batch[-1].sequence
            if not self._send(name, batch[0].sequence, after, [record.statement for record in batch]):
                return

    def _send(self, to: NodeId, first: int, last: int, statements: list[bytes]) -> bool:
        try:
            self._fleet.post(to, "record/sync", first, last, statements)
        except (LinkDown, _core.CoreError) as why:
            _log.info("records %d to %d could not be sent to %s: %s", first, last, to, why)
            return False
        return True

    def _on_propose(self, sender: NodeId, fields: Fields) -> None:
        request, token, statement = bytes(fields[0]), str(fields[1]), bytes(fields[2])
        self._fleet.spawn(self._propose(sender, request, token, statement))

    async def _propose(self, sender: NodeId, request: bytes, token: str, statement: bytes) -> None:
        code, reason, current = "ok", "", []
        try:
            if self._nodes.is_quarantined(sender):
                raise RecordRefused("rolled_back", "this node runs on an older copy of its vault")
            await self.add(statement, token=token, by=sender.value)
        except RecordRefused as why:
            code, reason = why.code, str(why)
            current = [why.current] if why.current is not None else []
        except StorageFailed as why:  # the process is about to stop; the node need not wait in vain
            code, reason = why.code, "the hub cannot write to its disk"
        with contextlib.suppress(LinkDown, _core.CoreError):
            self._fleet.post(sender, "record/result", request, code, reason, current)


def _fitting(found: list[Record]) -> list[Record]:
    """As many as one message takes; at least one."""
    size = 0
    for count, record in enumerate(found):
        size += len(record.statement)
        if count and size > _BATCH_BYTES:
            return found[:count]
    return found
