"""When a lease is renewed: at 80 % of its time or of its uses, while there is demand.

Here: one domain's lease as its node counts it.
Not here: the lease's end, which the module enforces by itself; how a new one is got (`requester`).
"""

from dataclasses import dataclass, replace

from quorate.ids import Instant

SHARE = 0.8
PAUSE = 1.0
"""Seconds after a renewal that came to nothing."""


@dataclass(frozen=True, slots=True)
class LeaseWatch:
    """`seconds`, `uses`: what the lease had when it began. `used`: since then, by this node's count."""

    began: Instant
    seconds: float
    uses: int
    used: int = 0
    renewing: bool = False
    not_before: Instant = float("-inf")

    def on_use(self, now: Instant) -> tuple["LeaseWatch", bool]:
        """(next state, whether to renew now)."""
        # Not `replace`, which takes four times as long: this is on the way of every call.
        used = LeaseWatch(self.began, self.seconds, self.uses, self.used + 1, self.renewing, self.not_before)
        return used._due(now)

    def on_time(self, now: Instant) -> tuple["LeaseWatch", bool]:
        """At `wake`, or at any other time."""
        return self._due(now)

    def on_failure(self, now: Instant) -> "LeaseWatch":
        """The renewal came to nothing: the lease goes on, and another try may follow."""
        return replace(self, renewing=False, not_before=now + PAUSE)

    @property
    def wake(self) -> Instant:
        """When the lease's time falls due for renewal."""
        return max(self.began + SHARE * self.seconds, self.not_before)

    def is_over(self, now: Instant) -> bool:
        return now >= self.began + self.seconds or self.used >= self.uses

    def _due(self, now: Instant) -> tuple["LeaseWatch", bool]:
        due = now >= self.began + SHARE * self.seconds or self.used >= SHARE * self.uses
        if not due or not self.used or self.renewing or now < self.not_before or self.is_over(now):
            return self, False
        return replace(self, renewing=True), True
