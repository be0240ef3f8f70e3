"""A member's part in the rotation of a domain's key (docs/protocols/key-rotation.md).

Here: keys wrapped anew in batches, new tokens compared with those before, the old version dropped: module calls under
leases of both versions, answers to the hub.
Not here: any check (the module), which keys and when (the hub).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from quorate import _core
from quorate.host.dispatch import Dispatch, Fields
from quorate.host.fleet import Fleet
from quorate.hsm import Hsm
from quorate.ids import HUB, DomainId, NodeId
from quorate.node.epochs import Epochs
from quorate.node.journal import Journal
from quorate.node.records import NoResult, Records
from quorate.node.sessions import NoLease, Sessions
from quorate.wire.links import LinkDown

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.002
"""After each key, so that clients are served meanwhile."""
_ATTEMPTS = 3


class _Stopped(Exception):
    """This member can do no more now."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Rotations:
    """`on_dropped` is called when an old version was dropped here."""

    def __init__(
        self,
        hsm: Hsm,
        fleet: Fleet,
        journal: Journal,
        sessions: Sessions,
        records: Records,
        epochs: Epochs,
        on_dropped: Callable[[], None],
    ) -> None:
        self._hsm = hsm
        self._fleet = fleet
        self._journal = journal
        self._sessions = sessions
        self._records = records
        self._epochs = epochs
        self._on_dropped = on_dropped
        self._turn = asyncio.Lock()
        self._checking: set[DomainId] = set()

    def register(self, dispatch: Dispatch) -> None:
        dispatch.on("key/rewrap", 3, self._on_rewrap)
        dispatch.on("key/check", 2, self._on_check)
        dispatch.on("key/drop", 1, self._on_drop)

    # One after another, and beside the queue of other messages: they wait for sessions and for the hub, which asks
    # again while it has no answer.

    def _on_rewrap(self, _sender: NodeId, fields: Fields) -> None:
        domain, to, keys = DomainId.named(fields[0]), int(fields[1]), [bytes(key) for key in fields[2]]
        self._fleet.spawn(self._rewrap(domain, to, keys))

    def _on_check(self, _sender: NodeId, fields: Fields) -> None:
        domain, version = DomainId.named(fields[0]), int(fields[1])
        if domain not in self._checking:
            self._checking.add(domain)
            self._fleet.spawn(self._check(domain, version))

    def _on_drop(self, _sender: NodeId, fields: Fields) -> None:
        self._fleet.spawn(self._drop([bytes(clean) for clean in fields[0]]))

    async def _rewrap(self, domain: DomainId, to: int, keys: list[bytes]) -> None:
        done: list[bytes] = []
        code, reason = "ok", ""
        async with self._turn:
            try:
                for key in keys:
                    if await self._rewrap_one(domain, to, key):
                        done.append(key)
                    await asyncio.sleep(_PAUSE_SECONDS)
            except _Stopped as why:
                code, reason = why.code, str(why)
                _log.warning("keys of %s are not wrapped anew here for now: %s (%s)", domain, why, code)
        self._post("key/rewrapped", domain.value, to, done, code, reason[:512])

    async def _rewrap_one(self, domain: DomainId, to: int, key: bytes) -> bool:
        """False where a change of the key came first: the hub asks again. Raises `_Stopped`."""
        module = self._hsm.module
        if (newest := module.newest_sharing(domain.value)) != domain.at_version(to).value:
            raise _Stopped("wrong_epoch", f"{newest} is the newest key version here")
        try:
            statement = await self._under(
                lambda: (*module.key_sharings(key), newest), lambda: module.rewrap_key(key)
            )
        except _core.CoreError as why:
            if why.code == "bad_state":
                return True  # it is done, or the key is deleted
            raise _Stopped(why.code, why.message) from None
        try:
            result = await self._records.propose(statement, "")
        except (LinkDown, NoResult) as why:
            raise _Stopped("no_result", f"the hub did not answer: {why}") from None
        if result.code in ("ok", "stale_version"):
            return result.code == "ok"
        raise _Stopped(result.code, result.reason)

    async def _check(self, domain: DomainId, version: int) -> None:
        async with self._turn:
            try:
                if await self._compare(domain, version):
                    self._post(
                        "key/clean", await self._hsm.slow(self._hsm.module.clean, domain.value, version)
                    )
            except _core.CoreError as why:
                self._refuse(domain, version, why.code, why.message)
            finally:
                self._checking.discard(domain)

    async def _drop(self, cleans: list[bytes]) -> None:
        seen = self._hsm.module.verify(cleans[0])
        domain, version = DomainId.named(seen["domain"]), int(seen["key_version"])
        async with self._turn:
            if not await self._compare(domain, version):
                return
            try:
                dropped = await self._hsm.slow(self._hsm.module.drop_version, cleans)
            except _core.CoreError as why:
                _log.warning("the module refused to drop a key version: %s (%s)", why.message, why.code)
                self._refuse(domain, version, why.code, why.message)
                return
            gone = [name for name in self._epochs.current if _is_old(name, domain, version)]
            self._epochs.refresh()
            for name in gone:
                self._sessions.forget_lease(name)
            if gone:
                self._journal.key_version(domain, version, "dropped")
                self._on_dropped()
            self._post("key/dropped", dropped)

    async def _compare(self, domain: DomainId, version: int) -> bool:
        """Opens each new token and the one before. False where one is wrong, or it cannot be done; the hub is told."""
        wrong: list[bytes] = []
        culprits: set[str] = set()
        for key in self._hsm.module.unchecked_keys(domain.value):
            try:
                await self._compare_one(key)
            except _core.CoreError as why:
                if why.code != "wrong_material":
                    self._refuse(domain, version, why.code, why.message)
                    return False
                wrong.append(key)
                culprits |= set(why.culprits)
                self._journal.key_version(domain, version, "wrong-material", key.hex(), sorted(why.culprits))
                _log.error(
                    "the new token of key %s is wrong: %s; by %s", key.hex(), why.message, why.culprits
                )
            except _Stopped as why:
                self._refuse(domain, version, why.code, str(why))
                return False
            await asyncio.sleep(_PAUSE_SECONDS)
        if wrong:
            reason = "a new token does not hold the key's material; the one before is used"
            self._refuse(domain, version, "wrong_material", reason, sorted(culprits), wrong)
        return not wrong

    async def _compare_one(self, key: bytes) -> None:
        module = self._hsm.module
        await self._under(lambda: module.key_sharings(key), lambda: module.check_rewrapped(key))

    async def _under(self, needed: Callable[[], Iterable[str]], command: Callable[[], T]) -> T:
        """Runs a command under leases of what it needs, getting what is missing. Raises `CoreError`, `_Stopped`."""
        for _ in range(_ATTEMPTS):
            names = [DomainId(name) for name in dict.fromkeys(needed())]
            try:
                result = command()
            except _core.CoreError as why:
                if why.code != "no_lease":
                    raise
            else:
                for name in names:
                    self._sessions.used(name)
                return result
            for name in names:
                await self._lease(name)
        raise _Stopped("no_lease", "the leases ended before they could be used")

    async def _lease(self, name: DomainId) -> None:
        if self._hsm.module.lease(name.value) is not None:
            return
        if not self._epochs.serves(name):
            raise _Stopped("not_a_member", f"this node has no share of {name}")
        try:
            await self._sessions.lease(name)
        except NoLease as why:
            raise _Stopped(why.why.code, str(why)) from None

    def _refuse(
        self,
        domain: DomainId,
        version: int,
        code: str,
        reason: str,
        culprits: Iterable[str] = (),
        keys: Iterable[bytes] = (),
    ) -> None:
        self._post("key/refused", domain.value, version, code, reason[:512], list(culprits), list(keys))

    def _post(self, kind: str, *fields: object) -> None:
        try:
            self._fleet.post(HUB, kind, *fields)
        except LinkDown as why:
            _log.info("%s could not be sent, the hub asks again: %s", kind, why)


def _is_old(name: DomainId, domain: DomainId, version: int) -> bool:
    return name.base == domain and name.key_version <= version
