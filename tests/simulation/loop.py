"""An event loop without a clock and without sockets: time passes when nothing is left to do at this instant.

Here: asyncio on virtual time, always in the same order. Not here: what runs on it.
"""

import asyncio
from collections.abc import Callable
from typing import Any


class Idle(Exception):
    """Nothing is left to do, now or later."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`on_advance(seconds)` is called when time passes."""

    def __init__(self, on_advance: Callable[[float], None]) -> None:
        super().__init__()
        self._now = 0.0
        self._on_advance = on_advance
        self._selector = self  # whom asyncio asks for events of the outside, of which there are none

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Idle
        if timeout > 0:
            at: float = self._scheduled[0]._when  # type: ignore[attr-defined]
            self._on_advance(at - self._now)
            self._now = at
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
