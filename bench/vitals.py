"""What /proc says of the fleet's processes: memory, threads, open files, processor time; and whether they grow.

A process that runs all the time is compared with itself: the medians of two windows, the first after a warm-up (of
a run of 20 minutes: its seventh minute, since a node remembers requests for data keys for five) and the last.
Processes that are killed and started again are compared at equal age: those of the first half of the run with those
of the second.

Here: reading, and this arithmetic. Not here: which process is whose, what growth is too much.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

WARM = 0.30
WINDOW = 0.05
"""Parts of the run: when the first window begins, and how long both are."""
AGE_SECONDS = 20.0
"""The age at which incarnations are compared."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory in KiB. `files` and `pss` are None where /proc does not tell (only root may look into the processes)."""

    at: float
    rss: int
    anonymous: int
    threads: int
    files: int | None
    pss: int | None
    processor: float


def read(pid: int, at: float) -> Sample | None:
    """None when there is no such process any more."""
    where = Path(f"/proc/{pid}")
    try:
        status = dict(
            line.split(":", 1) for line in (where / "status").read_text().splitlines() if ":" in line
        )
        times = (where / "stat").read_text().rpartition(")")[2].split()
        return Sample(
            at,
            int(status["VmRSS"].split()[0]),
            int(status["RssAnon"].split()[0]),
            int(status["Threads"]),
            _files(where),
            _pss(where),
            (int(times[11]) + int(times[12])) / _TICKS,
        )
    except (OSError, KeyError):  # a process that is ending has no memory any more
        return None


def _files(where: Path) -> int | None:
    try:
        return len(os.listdir(where / "fd"))
    except PermissionError:
        return None


def _pss(where: Path) -> int | None:
    try:
        lines = (where / "smaps_rollup").read_text().splitlines()
    except PermissionError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), None)


@dataclass
class Incarnation:
    """One process, from its start to its end."""

    name: str
    pid: int
    born: float
    samples: list[Sample] = field(default_factory=list)

    def at_age(self, age: float) -> int | None:
        """Median KiB over the ten seconds that end at `age`; None when it did not become so old."""
        if not self.samples or self.samples[-1].at - self.born < age - 1:
            return None
        window = [sample.rss for sample in self.samples if age - 10 <= sample.at - self.born <= age]
        return round(median(window)) if window else None


@dataclass(frozen=True)
class Growth:
    """`first` and `last` are None when there was nothing to measure."""

    first: float | None
    last: float | None

    @property
    def percent(self) -> float | None:
        return None if not self.first or self.last is None else 100 * (self.last / self.first - 1)

    def as_json(self) -> dict[str, float | None]:
        return {"first": self.first, "last": self.last, "percent": self.percent}


def growth(
    samples: Iterable[Sample],
    begun: float,
    seconds: float,
    what: Callable[[Sample], int | None],
    of: Callable[[list[int]], float] = median,
) -> Growth:
    """From the first window of a run of `seconds` to the last. `of`: what is taken of the values of a window."""
    first, last = (WARM * seconds, (WARM + WINDOW) * seconds), ((1 - WINDOW) * seconds, seconds)
    found: list[float | None] = []
    known = [(sample.at - begun, value) for sample in samples if (value := what(sample)) is not None]
    for since, until in (first, last):
        values = [value for at, value in known if since <= at <= until]
        found.append(of(values) if values else None)
    return Growth(*found)


def lifetimes(incarnations: Iterable[Incarnation], age: float = AGE_SECONDS) -> tuple[Growth, int]:
    """Of processes that were started during the run: from the earlier half of those that reached `age` to the later;
    and how many did.
    """
    reached = [rss for one in sorted(incarnations, key=lambda one: one.born) if (rss := one.at_age(age))]
    half = len(reached) // 2
    if not half:
        return Growth(None, None), len(reached)
    return Growth(median(reached[:half]), median(reached[-half:])), len(reached)


class Processor:
    """Whose the machine's processor time is: the fleet's, this process's, others', nobody's; by the second."""

    def __init__(self) -> None:
        self._before = self._read({})
        self.seconds: list[tuple[float, dict[str, float]]] = []

    def tick(self, fleet: dict[int, float]) -> None:
        """`fleet`: processor seconds of each of its processes that runs, by pid."""
        before, now = self._before, self._read(fleet)
        self._before = now
        whole = max(1e-9, now["all"] - before["all"])
        mine = max(0.0, now["client"] - before["client"])
        theirs = sum(max(0.0, used - before["fleet"].get(pid, used)) for pid, used in fleet.items())
        idle = max(0.0, now["idle"] - before["idle"])
        shares = {"fleet": theirs, "client": mine, "idle": idle}
        shares["others"] = max(0.0, whole - sum(shares.values()))
        self.seconds.append((time.monotonic(), {name: 100 * used / whole for name, used in shares.items()}))

    def mean(self) -> dict[str, float]:
        """Percent of all the machine's processors."""
        return self._mean(self.seconds)

    def around(self, clock: float, seconds: float) -> dict[str, float]:
        """The same for the `seconds` before `clock` (monotonic) and the second after it."""
        return self._mean([one for one in self.seconds if clock - seconds <= one[0] <= clock + 1.5])

    def _mean(self, seconds: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
        names = ("fleet", "client", "others", "idle")
        return {name: sum(shares[name] for _, shares in seconds) / max(1, len(seconds)) for name in names}

    def _read(self, fleet: dict[int, float]) -> dict[str, Any]:
        words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        ticks = [int(word) / _TICKS for word in words]  # user nice system idle iowait irq softirq steal
        own = os.times()
        return {
            "all": sum(ticks),
            "idle": ticks[3] + ticks[4],
            "client": own.user + own.system,
            "fleet": dict(fleet),
        }
