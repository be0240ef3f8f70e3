"""From an opened message to its handler, or to a counted, named reason for dropping it.

Here: which kinds there are, who may send them, how many fields they have (docs/protocols/messages.md).
Not here: sockets, and opening: the module has verified sender and kind already.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from quorate import _core
from quorate.ids import HUB, NodeId
from quorate.wire.links import LinkDown

_log = logging.getLogger(__name__)

Fields = list[Any]
Handler = Callable[[NodeId, Fields], Awaitable[None] | None]


class Dropped(Exception):
    """A handler has no use for a message; `code` names the reason."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(detail or code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Rule:
    """`queued`: messages of such kinds are handled one after another, and hold up nothing else."""

    handle: Handler
    fields: int
    hub_only: bool
    queued: bool


class Dispatch:
    """`drops` counts dropped messages by reason."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        self._rules: dict[str, Rule] = {}
        self._queue: asyncio.Queue[tuple[Rule, str, NodeId, Fields]] = asyncio.Queue()

    def on(
        self, kind: str, fields: int, handle: Handler, *, hub_only: bool = True, queued: bool = False
    ) -> None:
        self._rules[kind] = Rule(handle, fields, hub_only, queued)

    def take(self, sender: NodeId, kind: str, body: bytes) -> Awaitable[None] | None:
        """Hands one message on. What is returned must be awaited before the sender's next message."""
        try:
            fields = _core.decode(body)
        except _core.CoreError as why:
            self.drop(why.code, sender, kind)
            return None
        return self.take_fields(sender, kind, fields)

    def take_fields(self, sender: NodeId, kind: str, fields: object) -> Awaitable[None] | None:
        rule = self._rules.get(kind)
        if rule is None:
            self.drop("unknown_kind", sender, kind)
        elif rule.hub_only and sender != HUB:
            self.drop("not_from_hub", sender, kind)
        elif not isinstance(fields, list) or len(fields) != rule.fields:
            self.drop("bad_encoding", sender, kind)
        elif rule.queued:
            self._queue.put_nowait((rule, kind, sender, fields))
        else:
            return self._call(rule, kind, sender, fields)
        return None

    def drop(self, reason: str, sender: NodeId, kind: str, detail: str = "") -> None:
        self.drops[reason] += 1
        count = self.drops[reason]
        if count & (count - 1) == 0:  # the first, second, fourth …: a flood does not fill the log
            _log.warning(
                "dropped %s of %s: %s %s(%d so far)", kind, sender, reason, detail + " " * bool(detail), count
            )

    async def run_queue(self) -> None:
        """Handles queued messages, until cancelled."""
        while True:
            rule, kind, sender, fields = await self._queue.get()
            waiting = self._call(rule, kind, sender, fields)
            if waiting is not None:
                await waiting

    def _call(self, rule: Rule, kind: str, sender: NodeId, fields: Fields) -> Awaitable[None] | None:
        try:
            waiting = rule.handle(sender, fields)
        except Exception as why:
            self._failed(why, kind, sender)
            return None
        return None if waiting is None else self._finish(waiting, kind, sender)

    async def _finish(self, waiting: Awaitable[None], kind: str, sender: NodeId) -> None:
        try:
            await waiting
        except Exception as why:
            self._failed(why, kind, sender)

    def _failed(self, why: Exception, kind: str, sender: NodeId) -> None:
        match why:
            case _core.CoreError():
                self.drop(why.code, sender, kind, why.message)
            case Dropped() | LinkDown():
                self.drop(why.code, sender, kind, str(why))
            case ValueError() | TypeError() | LookupError():
                self.drop("bad_encoding", sender, kind, type(why).__name__)
            case _:
                self.drop("failed", sender, kind, type(why).__name__)
                _log.error("handling %s failed", kind, exc_info=why)
