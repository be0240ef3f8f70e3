"""What clients count: calls, retries, errors, wrong results and latencies, by operation, in bounded memory.

Not here: what is an error or wrong (`workload`).
"""

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

KEPT_TELLINGS = 100
"""Errors and wrong results told in full; more are only counted."""


class Histogram:
    """Durations, each within 2 %: bounded memory, however long the run."""

    _STEP = math.log(1.02)

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[math.floor(math.log(max(seconds, 1e-6)) / self._STEP)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def ms(self, part: float) -> float | None:
        """The percentile in milliseconds; None without any duration."""
        left = part * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(1000 * math.exp((bucket + 0.5) * self._STEP), 1000 * self.longest)
        return None

    def as_json(self) -> dict[str, float | None]:
        return {"p50_ms": self.ms(0.5), "p99_ms": self.ms(0.99), "max_ms": 1000 * self.longest}


@dataclass
class Counts:
    """Of one operation."""

    calls: int = 0
    errors: int = 0
    retries: int = 0
    wrong: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def as_json(self) -> dict[str, Any]:
        counted = {"calls": self.calls, "errors": self.errors, "retries": self.retries, "wrong": self.wrong}
        return counted | self.latency.as_json()


class Tally:
    """What all clients counted; may be used by all their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = Histogram()
        self.total = Counts()
        self.operations: dict[str, Counts] = {}
        self.causes: Counter[str] = Counter()
        """Attempts that failed, by their exception or code; the SDK retried all but an error's last."""
        self.errors: list[dict[str, Any]] = []
        self.wrong: list[dict[str, Any]] = []

    def called(self, operation: str, seconds: float, retries: int) -> None:
        with self._lock:
            self._since.add(seconds)
            for counts in (self.total, self._of(operation)):
                counts.calls += 1
                counts.retries += retries
                counts.latency.add(seconds)

    def failed(self, operation: str, what: str, causes: list[str]) -> None:
        self._tell(self.errors, "errors", operation, what, causes)

    def wronged(self, operation: str, what: str) -> None:
        self._tell(self.wrong, "wrong", operation, what, [])

    def attempt_failed(self, cause: str) -> None:
        with self._lock:
            self.causes[cause] += 1

    def since(self) -> Histogram:
        """The calls since this was last asked."""
        with self._lock:
            found, self._since = self._since, Histogram()
        return found

    def _of(self, operation: str) -> Counts:
        return self.operations.setdefault(operation, Counts())

    def _tell(
        self, told: list[dict[str, Any]], count: str, operation: str, what: str, causes: list[str]
    ) -> None:
        with self._lock:
            for counts in (self.total, self._of(operation)):
                setattr(counts, count, getattr(counts, count) + 1)
            if len(told) < KEPT_TELLINGS:
                at = datetime.now(UTC).isoformat(timespec="milliseconds")
                told.append(
                    {"at": at, "clock": time.monotonic(), "operation": operation, "what": what}
                    | ({"attempts": causes} if causes else {})
                )
