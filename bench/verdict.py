"""What a soak came to: every figure, what is held against the run, as JSON and as a table.

Here: limits, the audit logs, the processes' own logs. Not here: making anything happen, reading /proc.
"""

import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tally import Tally
from vitals import Growth, Incarnation, Processor, growth, lifetimes

from quorate import _core
from quorate.audit.verify import verify
from quorate.local.layout import Layout

LIMIT_PERCENT = 5.0
OVERLOAD_SECONDS = 10.0
"""How long before a failure the processors' load is told with it."""
_TRACEBACK_LINES = 40


@dataclass
class Seen:
    """Of one run. `always_up`: the node that is never killed. Times are monotonic seconds."""

    seed: int
    fleet: str
    clients: int
    seconds: float
    always_up: str
    tally: Tally = field(default_factory=Tally)
    kills: Counter[str] = field(default_factory=Counter)
    locks: int = 0
    unlocked: int = 0
    """Nodes that were up, and that a lock did not reach."""
    failures: list[str] = field(default_factory=list)
    """What else than an answer went wrong."""
    incarnations: list[Incarnation] = field(default_factory=list)
    processor: Processor = field(default_factory=Processor)
    begun: float = 0.0
    took: float = 0.0

    def growths(self) -> dict[str, Growth]:
        """Of hub and the node that is never killed: memory in MiB, threads, open files."""
        found = {}
        for name in ("hub", self.always_up):
            mine = [sample for one in self.incarnations if one.name == name for sample in one.samples]
            for what in ("rss", "anonymous", "pss", "threads"):
                grew = growth(mine, self.begun, self.seconds, lambda sample, what=what: getattr(sample, what))
                found[f"{name} {what}"] = grew if what == "threads" else _mib(grew)
            found[f"{name} files"] = growth(mine, self.begun, self.seconds, lambda sample: sample.files, min)
        return found

    def restarted(self) -> tuple[Growth, int]:
        """Memory of the other nodes at equal age, in MiB; and how many became so old."""
        first = {one.name: one for one in reversed(self.incarnations)}
        grew, count = lifetimes(one for one in self.incarnations if one is not first[one.name])
        return _mib(grew), count

    def result(self, audit: dict[str, Any], logs: dict[str, Any]) -> dict[str, Any]:
        grown, (again, count) = self.growths(), self.restarted()
        for told in (*self.tally.errors, *self.tally.wrong):
            told["processor_percent"] = self.processor.around(told["clock"], OVERLOAD_SECONDS)
            told["seconds"] = round(told.pop("clock") - self.begun, 3)
        total = self.tally.total
        failures = [*self.failures, *self._grew(grown, again)]
        if not total.calls:
            failures.append("no call was made")
        if total.errors or total.wrong:
            failures.append(f"{total.errors} errors after the SDK's retries, {total.wrong} wrong results")
        failures += [f"{path}: {found['breach']}" for path, found in audit.items() if found["breach"]]
        operations = sorted(self.tally.operations.items())
        return {
            "machine": _machine(),
            "build": _core.build_info(),
            "seed": self.seed,
            "seconds": round(self.took, 1),
            "fleet": self.fleet,
            "clients": self.clients,
            "calls_per_second": round(total.calls / max(0.001, self.took), 1),
            "total": total.as_json(),
            "operations": {name: counts.as_json() for name, counts in operations},
            "failed_attempts": dict(self.tally.causes.most_common()),
            "kills": dict(self.kills),
            "locks": self.locks,
            "locks_unreached": self.unlocked,
            "growth": {name: grew.as_json() for name, grew in grown.items()},
            "restarted_nodes_rss": again.as_json() | {"incarnations": count},
            "processor_percent": self.processor.mean(),
            "audit": audit,
            "logs": logs,
            "errors": self.tally.errors,
            "wrong": self.tally.wrong,
            "failures": failures,
            "passed": not failures,
        }

    def _grew(self, grown: dict[str, Growth], again: Growth) -> list[str]:
        """What grew too much, in words. A short run may have no nodes to compare; hub and one node it must have."""
        failures = []
        # A client's connection is an open file of the node that it happens to reach; links to nodes come and go.
        slack = {"hub": 2, self.always_up: self.clients}
        for name, more in slack.items():
            memory, threads, files = (grown[f"{name} {what}"] for what in ("rss", "threads", "files"))
            if memory.percent is None:
                failures.append(
                    f"the memory of {name} was not measured: the run was too short, or was cut short"
                )
            elif memory.percent >= LIMIT_PERCENT:
                failures.append(f"the memory of {name} grew by {memory.percent:.1f} %")
            for what, grew, most in (("threads", threads, 0), ("open files", files, more)):
                if grew.first is not None and grew.last is not None and grew.last > grew.first + most:
                    failures.append(f"{name} has {grew.last:g} {what}, after {grew.first:g}")
        if again.percent is not None and again.percent >= LIMIT_PERCENT:
            failures.append(
                f"nodes that were started later had {again.percent:.1f} % more memory at equal age"
            )
        return failures


def _mib(grew: Growth) -> Growth:
    return Growth(*(None if kib is None else kib / 1024 for kib in (grew.first, grew.last)))


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f} at the end"
    )


def audited(layout: Layout) -> dict[str, Any]:
    found = {}
    for path in sorted(layout.data.glob("**/audit.log")):
        report = verify(path)
        breach = None if report.breach is None else f"line {report.breach.line}: {report.breach.reason}"
        found[str(path.relative_to(layout.data))] = {"lines": report.lines, "breach": breach}
    return found


def logged(layout: Layout) -> dict[str, Any]:
    """How many lines tell of trouble, by level, and the first few but warnings. They inform, and decide nothing: a
    killed neighbour is something that a node may complain of.
    """
    counts: Counter[str] = Counter()
    told: dict[str, list[str]] = {}
    for path in sorted(layout.logs.glob("*.log*")):
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            words = line.split(maxsplit=3)
            level = "Traceback" if line.startswith("Traceback") else words[2] if len(words) == 4 else ""
            if level not in ("WARNING", "ERROR", "CRITICAL", "Traceback"):
                continue
            counts[level] += 1
            if level != "WARNING" and len(told.setdefault(level, [])) < 5:
                end = number + 1
                while level == "Traceback" and end < min(len(lines), number + _TRACEBACK_LINES):
                    end += 1
                    if not lines[end - 1].startswith(" "):
                        break
                told[level].append("\n".join(f"{path.name}: {line}" for line in lines[number:end]))
    return {"lines": dict(counts), "first": told}


def show(result: dict[str, Any]) -> None:
    print(f"machine     {result['machine']}")
    shares = ", ".join(f"{name} {share:.0f} %" for name, share in result["processor_percent"].items())
    print(f"processor   {shares}")
    print(
        f"run         {result['seconds']:.0f} s, {result['fleet']}, {result['clients']} clients, "
        f"seed {result['seed']}, {result['calls_per_second']:g} calls/s"
    )
    print(
        f"fleet       {sum(result['kills'].values())} kills, {result['locks']} locks "
        f"({result['locks_unreached']} times, a node that was up was not reached)"
    )
    heads = ("calls", "errors", "retries", "wrong", "p50 ms", "p99 ms", "max ms")
    print(f"\n{'operation':36}" + "".join(f"{head:>9}" for head in heads))
    for name, counts in [*result["operations"].items(), ("all", result["total"])]:
        times = "".join(_number(counts[key]) for key in ("p50_ms", "p99_ms", "max_ms"))
        print(f"{name:36}" + "".join(f"{counts[head]:9}" for head in heads[:4]) + times)
    causes = ", ".join(f"{cause} {count}" for cause, count in result["failed_attempts"].items())
    print(f"\nattempts that failed: {causes or 'none'}")
    print(f"\n{'memory (MiB), threads, open files':36}{'first':>9}{'last':>9}{'growth':>9}")
    again = result["restarted_nodes_rss"]
    title = f"{again['incarnations']} restarted nodes rss, equal age"
    for name, grew in [*result["growth"].items(), (title, again)]:
        percent = "" if grew["percent"] is None else f"{grew['percent']:+.1f} %"
        print(f"{name:36}{_number(grew['first'])}{_number(grew['last'])}{percent:>9}")
    whole = sum(found["breach"] is None for found in result["audit"].values())
    lines = sum(found["lines"] for found in result["audit"].values())
    print(f"\naudit logs: {whole} of {len(result['audit'])} whole, {lines} lines")
    levels = ", ".join(f"{count} {level}" for level, count in result["logs"]["lines"].items())
    print(f"log lines that tell of trouble: {levels or 'none'}")
    for level in result["logs"]["first"].values():
        for line in level:
            print(line)
    for kind in ("wrong", "errors"):
        for told in result[kind]:
            share = told["processor_percent"]["others"]
            print(
                f"{kind}: {told['at']} (at {told['seconds']:.1f} s; others used {share:.0f} % of the processors) "
                f"{told['operation']}: {told['what']} {' '.join(told.get('attempts', []))}"
            )
    print()
    for failure in result["failures"]:
        print(f"FAILED: {failure}")
    if result["passed"]:
        print("passed: no wrong result, no error, no growth")


def _number(value: float | None) -> str:
    return f"{'–' if value is None else format(value, '.1f'):>9}"
