"""Charters, access keys, KMS keys, aliases: learnt in the hub's order, proposed to the hub, read from memory.

Here: the order, what is known (by its public view), and who waits for a proposal's result.
Not here: whether a record is good (the module verifies each), sequence numbers (the hub gives them).

The sequence begins at 0 with the process, and with each start of the hub, so that the hub shows every record
again: what the vault holds is known to be complete then, whatever a crash or an older copy, here or there, left out.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

from quorate import _core
from quorate.host.dispatch import Dispatch, Dropped, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.ids import HUB, DomainId, NodeId
from quorate.kms.backend import AliasRecord, KeyRecord, KeyState

_log = logging.getLogger(__name__)

RESULT_SECONDS = 1.5
"""How long the hub may take to answer a proposal."""

_STATES = {
    "enabled": KeyState.ENABLED,
    "disabled": KeyState.DISABLED,
    "pending-deletion": KeyState.PENDING_DELETION,
}


class Turn(Enum):
    """What a batch of records is, by its sequence numbers."""

    NEXT = "next"
    KNOWN = "known"
    GAP = "gap"


def turn(have: int, first: int, last: int) -> Turn:
    """`have`: the last sequence number learnt; the batch goes from `first` to `last`."""
    if first > have + 1:
        return Turn.GAP
    return Turn.KNOWN if last <= have else Turn.NEXT


@dataclass(frozen=True, slots=True)
class Result:
    """What the hub made of a proposal. `code`: `ok`, or why not."""

    code: str
    reason: str


class NoResult(Exception):
    """The hub did not answer a proposal in time: it may have been accepted, or not."""


class Records:
    """`on_change` is called when the sequence has moved on."""

    def __init__(self, hsm: Hsm, fleet: Fleet, on_change: Callable[[], None]) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._on_change = on_change
        self._waiting: dict[bytes, asyncio.Future[Fields]] = {}
        self._refused: list[bytes] = []
        self.sequence = 0
        self.keys: dict[str, KeyRecord] = {}
        self.aliases: dict[str, AliasRecord] = {}
        self.allowed: dict[DomainId, frozenset[NodeId]] = {}
        """Of each domain that there is a charter of: the nodes that may be members."""
        for kind in ("charter", "key", "alias"):
            for statement in hsm.module.records(kind):
                self._index(statement)

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("record/sync", 3, self._on_sync, queued=True)
        dispatch.on("record/result", 4, self._on_result, queued=True)

    def begin_again(self) -> None:
        """The hub has started anew, perhaps with an older copy of its order: its numbers are others now."""
        self.sequence = 0

    async def propose(self, statement: bytes, token: str) -> Result:
        """Asks the hub to put `statement` in order; when it has, it is known here too.

        `token` makes a repeat recognisable. Raises `LinkDown`, `NoResult`.
        """
        request = secrets.token_bytes(16)
        self._waiting[request] = answered = asyncio.get_running_loop().create_future()
        try:
            self._fleet.post(HUB, "record/propose", request, token, statement)
            async with asyncio.timeout(RESULT_SECONDS):
                _, code, reason, current = await answered
        except TimeoutError:
            raise NoResult from None
        finally:
            del self._waiting[request]
        result = Result(str(code), str(reason))
        learnt = [statement] if result.code == "ok" else [bytes(other) for other in current]
        await self._learn(learnt)
        return result

    async def retry_refused(self) -> None:
        """A new roster may have brought the signer of a record that was refused; or a rekey, the fleet key of it."""
        refused, self._refused = self._refused, []
        await self._learn(refused)

    async def _on_sync(self, _sender: NodeId, fields: Fields) -> None:
        first, last, statements = int(fields[0]), int(fields[1]), [bytes(s) for s in fields[2]]
        match turn(self.sequence, first, last):
            case Turn.GAP:
                self._on_change()  # the next heartbeat tells the hub where to begin
                raise Dropped("record_gap", f"records from {first} came after {self.sequence}")
            case Turn.KNOWN:
                return
        await self._learn(statements)
        self.sequence = last
        self._on_change()

    def _on_result(self, _sender: NodeId, fields: Fields) -> None:
        answered = self._waiting.get(bytes(fields[0]))
        if answered is None or answered.done():
            raise Dropped("no_proposal", "a result that nobody waits for")
        answered.set_result(fields)

    async def _learn(self, statements: list[bytes]) -> None:
        if not statements:
            return
        outcomes = await self._hsm.slow(self._hsm.module.learn, statements)
        for statement, outcome in zip(statements, outcomes, strict=True):
            if outcome == "new":
                self._index(statement)
            elif outcome not in ("known", "stale_version"):
                # Without its fleet key one of the two comes: the key, or the record's next version.
                level = logging.INFO if outcome == "no_fleet_key" else logging.ERROR
                _log.log(level, "a record of the hub was refused: %s", outcome)
                self._refused.append(statement)

    def _index(self, statement: bytes) -> None:
        seen = _view(statement)
        match seen["label"]:
            case "quorate/v1/domain/charter":
                nodes = frozenset(NodeId(allowed["node"]) for allowed in seen["allowed"])
                self.allowed[DomainId(seen["domain"])] = nodes
            case "quorate/v1/record/key":
                key_id = str(UUID(bytes=seen["key_id"]))
                if seen["state"] == "deleted":
                    self.keys.pop(key_id, None)
                else:
                    self.keys[key_id] = key_record(seen)
            case "quorate/v1/record/alias":
                if seen["target"] is None:
                    self.aliases.pop(seen["alias"], None)
                else:
                    self.aliases[seen["alias"]] = alias_record(seen)


def key_record(seen: dict[str, Any]) -> KeyRecord:
    """From the view of a key's record that is not deleted."""
    deletion = seen["deletion"]
    return KeyRecord(
        key_id=str(UUID(bytes=seen["key_id"])),
        domain=seen["domain"],
        state=_STATES[seen["state"]],
        created=seen["created"] / 1000,
        description=seen["description"],
        deletion_date=None if deletion is None else deletion / 1000,
        key_version=seen["key_version"],
        tags={tag["key"]: tag["value"] for tag in seen["tags"]},
        version=seen["version"],
    )


def alias_record(seen: dict[str, Any]) -> AliasRecord:
    """From the view of an alias that has a target."""
    return AliasRecord(
        name=seen["alias"],
        key_id=str(UUID(bytes=seen["target"])),
        created=seen["created"] / 1000,
        updated=seen["updated"] / 1000,
    )


def _view(statement: bytes) -> dict[str, Any]:
    try:
        return _core.view(statement)
    except _core.CoreError:
        return _core.view_approved(statement)
