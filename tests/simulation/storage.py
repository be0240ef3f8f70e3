"""The hub's database and the audit logs, in memory: what a crash leaves of them, and writes that fail.

Here: the methods that epoch changes use, with the durability that `store/database` promises.
Not here: SQL, other tables, the audit log's chain (their own tests).
"""

import asyncio
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from quorate.errors import StorageFailed
from quorate.ids import DomainId
from quorate.store.database import AttemptRow

_COLUMNS = ("phase", "plan", "charter", "dealings", "sealed", "configuration", "receipts", "reason", "at")
_PATH = Path("hub.db")


@dataclass(slots=True)
class Store:
    """What is on the medium."""

    attempts: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    erasures: dict[str, dict[str, int]] = field(default_factory=dict)
    refresh_every: dict[str, int] = field(default_factory=dict)

    def copy(self) -> "Store":
        return copy.deepcopy(self)


class Database:
    """`on_write(epoch, row)` is called at the moment when a row of an attempt becomes durable."""

    def __init__(self, store: Store, rng: Random, on_write: Callable[[int, dict[str, Any]], None]) -> None:
        self.store = store
        self._rng = rng
        self._on_write = on_write
        self._turn = asyncio.Lock()
        self.failed: asyncio.Future[StorageFailed] = asyncio.get_running_loop().create_future()
        self.fails_after: int | None = None
        """Writes until one fails."""

    async def _write(self, change: Callable[[], None]) -> None:
        """A crash in the first pause loses the write, in the second its acknowledgement."""
        if self.failed.done():
            raise self.failed.result()
        async with self._turn:
            await self._pause()
            if self.fails_after is not None:
                self.fails_after -= 1
                if self.fails_after < 0:
                    failure = StorageFailed(_PATH, "a write failed")
                    if not self.failed.done():
                        self.failed.set_result(failure)
                    raise failure
            change()
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.004))

    async def put_attempt(self, domain: str, epoch: int, **columns: object) -> None:
        def change() -> None:
            row = self.store.attempts.setdefault((domain, epoch), {"reason": ""})
            row.update(columns)
            assert {"phase", "plan", "charter"} <= row.keys(), "NOT NULL"
            self._on_write(epoch, row)

        await self._write(change)

    async def forget_attempts(self, domain: str, below: int, keep: Sequence[int]) -> None:
        def change() -> None:
            for name, epoch in list(self.store.attempts):
                over = self.store.attempts[name, epoch]["phase"] in ("committed", "closed", "aborted")
                if name == domain and epoch < below and epoch not in keep and over:
                    del self.store.attempts[name, epoch]

        await self._write(change)

    async def attempts(self) -> list[AttemptRow]:
        return [_row(*key, row) for key, row in sorted(self.store.attempts.items())]

    async def committed_after(self, domain: str, epoch: int) -> list[AttemptRow]:
        return [
            row
            for row in await self.attempts()
            if row.domain == domain and row.epoch > epoch and row.phase in ("committed", "closed")
        ]

    async def put_erasure(self, domain: str, node: str, below: int, statement: bytes) -> None:
        await self._write(lambda: self.store.erasures.setdefault(domain, {}).update({node: below}))

    async def erasures(self) -> dict[str, dict[str, int]]:
        return copy.deepcopy(self.store.erasures)

    async def put_refresh_every(self, domain: str, seconds: int) -> None:
        await self._write(lambda: self.store.refresh_every.update({domain: seconds}))

    async def refresh_every(self) -> dict[str, int]:
        return dict(self.store.refresh_every)


def _row(domain: str, epoch: int, columns: dict[str, Any]) -> AttemptRow:
    known: dict[str, Any] = {name: columns.get(name) for name in _COLUMNS}
    return AttemptRow(domain, epoch, **known)


class HubJournal:
    """Each line takes a moment to be durable."""

    def __init__(self, rng: Random, on_line: Callable[[str, dict[str, Any]], None]) -> None:
        self._rng = rng
        self._on_line = on_line

    async def note(self, event: str, **members: Any) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.002))
        self._on_line(event, members)

    async def epoch(self, domain: DomainId, epoch: int, phase: str, reason: str = "") -> None:
        await self.note("epoch")


class NodeJournal:
    def epoch(self, domain: DomainId, epoch: int, step: str, reason: str = "") -> None:
        pass
