"""The hub's fencing numbers: for each shard a strictly rising (term, number).

Here: the next fence of a shard, and how far a holder's report moves it.
Not here: whether a fence is accepted: the holder's module checks that (`core/src/module/usage.rs`).

The term rises with each start of the hub, durably, before its first grant; so a start needs to know nothing of
the numbers before. A hub that was restored from an old copy is behind what the modules have seen: a module
refuses, and reports its highest under its signature. The hub follows that for this shard alone, and each report
for at most 2^32, so a holder that lies moves nothing but its own shard (attack N97). What was followed is not
kept: after the next start the holder reports again.
"""

from quorate.ids import DomainId

MAX_STEP = 1 << 32
"""The furthest that one report moves a shard's term, or its number within a term; a module accepts no more."""
_MAX = (1 << 64) - 1

Fence = tuple[int, int]
"""(term, number)."""

_Shard = tuple[DomainId, int]


class Fences:
    def __init__(self, term: int) -> None:
        self._term = term
        self._last: dict[_Shard, Fence] = {}

    def next(self, shard: _Shard) -> Fence:
        """A fence above every earlier one of this shard."""
        term, number = self._last.get(shard, (self._term, 0))
        self._last[shard] = (term, number + 1)
        return self._last[shard]

    def follow(self, shard: _Shard, seen: Fence) -> str | None:
        """Moves towards what the holder's module has seen; None if the next fence will be above it, else why not.

        A module may honestly be further ahead than one step, when a stolen hub has walked it there: each report
        brings this hub a step nearer.
        """
        term, number = self._last.get(shard, (self._term, 0))
        if seen < (term, number):
            return "fence_not_ahead"
        if seen[0] == term:
            self._last[shard] = (term, min(seen[1], number + MAX_STEP))
        else:
            self._last[shard] = (min(seen[0] + 1, term + MAX_STEP, _MAX), 0)
        return None if self._last[shard] >= seen else "fence_too_far"

    def forget(self, shard: _Shard) -> None:
        """A new epoch's shard: its module counts from the beginning."""
        self._last.pop(shard, None)
