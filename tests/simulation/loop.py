"""An event loop without a clock and without sockets: time passes when nothing is left to do at this instant.

Here: what asyncio's tasks, futures, locks and queues ask of a loop, on virtual time, always in the same order; without
contexts, which nothing here uses, and no more than that, for it is run a thousand times a schedule.
Not here: what runs on it.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Idle(Exception):
    """Nothing is left to do, now or later."""


class Handle:
    """One call to come; `when` is None for one that is due."""

    __slots__ = ("arguments", "call", "when")

    def __init__(self, call: Callable[..., object] | None, arguments: tuple[Any, ...], when: float) -> None:
        self.call = call
        self.arguments = arguments
        self.when = when

    def cancel(self) -> None:
        self.call, self.arguments = None, ()

    def cancelled(self) -> bool:
        return self.call is None


class VirtualLoop(asyncio.AbstractEventLoop):
    """`on_advance(seconds)` is called when time passes."""

    def __init__(self, on_advance: Callable[[float], None]) -> None:
        self._now = 0.0
        self._on_advance = on_advance
        self._ready: deque[Handle] = deque()
        self._later: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._on_failure: Callable[[Any, dict[str, Any]], object] = lambda loop, context: None

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = Handle(callback, args, self._now)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        return self.call_at(self._now + delay, callback, *args)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = Handle(callback, args, when)
        self._count += 1
        heapq.heappush(self._later, (when, self._count, handle))
        return handle

    def run_until_complete(self, future: Any) -> Any:
        done = asyncio.ensure_future(future, loop=self)
        ready, later, pop = self._ready, self._later, heapq.heappop
        asyncio._set_running_loop(self)
        try:
            while not done.done():
                if not ready:
                    while later and later[0][2].call is None:
                        pop(later)
                    if not later:
                        raise Idle
                    at = later[0][0]
                    if at > self._now:
                        self._on_advance(at - self._now)
                        self._now = at
                while later and later[0][0] <= self._now:
                    ready.append(pop(later)[2])
                for _ in range(len(ready)):
                    handle = ready.popleft()
                    if handle.call is None:
                        continue
                    try:
                        handle.call(*handle.arguments)
                    except Exception as why:
                        self.call_exception_handler({"handle": handle, "exception": why})
        finally:
            asyncio._set_running_loop(None)
        return done.result()

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, T], **_named: Any) -> asyncio.Task[T]:  # type: ignore[override]
        return asyncio.Task(coro, loop=self)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def close(self) -> None:
        self._ready.clear()
        self._later.clear()

    def set_exception_handler(self, handler: Any) -> None:
        self._on_failure = handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._on_failure(self, context)

    def _timer_handle_cancelled(self, handle: object) -> None:
        pass
