"""How many refused requests of unauthenticated callers are audited: enough to see an attack, too few to be one.

Each audit line costs a durable write. Without a bound, anybody who reaches the port could fill the disk with them,
and with the disk full every request is refused. Refusals beyond the bound are counted, and the next line tells how
many. Calls with a valid signature are always audited.
"""

from __future__ import annotations

from collections.abc import Callable

BURST = 100.0
PER_SECOND = 10.0


class RefusalLimiter:
    """A token bucket. `clock` returns seconds; if it steps back, the bucket only fills later."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = BURST
        self._at = clock()
        self._suppressed = 0

    def take(self) -> int | None:
        """Number of refusals left out since the last line, if this one may be written; else None, and it is counted."""
        now = self._clock()
        self._tokens = min(BURST, self._tokens + max(0.0, now - self._at) * PER_SECOND)
        self._at = now
        if self._tokens < 1.0:
            self._suppressed += 1
            return None
        self._tokens -= 1.0
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
