"""Crash points: the calls by which a process makes things durable, numbered, and strace's way of killing it there.

Here: which calls count, how a trace is read, the arguments of strace.
Not here: what runs under it (`fleet`, `operations`).

strace counts the calls of a kind for each thread. Each file of a module and of the hub's store is written by one
thread (the module's worker, the database connection's, the event loop), so that a call is named by file, kind and
number. Where the database has two connections in use at a time, what the second writes has numbers of its own, and the
first thread that comes to a number is killed.
`SIGKILL` at a call's entry keeps the call from being made: *before*. A signal of which no process of ours knows
(`SIGUSR1`) is delivered when the call is done and nothing of the process has run since, and ends it just like
`SIGKILL`: *after*.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OPENS = ("open", "openat", "creat")
KINDS = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2"),
    *("fsync", "fdatasync", "sync_file_range", "msync"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat"),
    *("mkdir", "mkdirat", "rmdir", "ftruncate", "truncate", "fallocate"),
    *OPENS,
)
IGNORED = re.compile(r"run\.json|run\.json\.new|log-level|__pycache__|.*\.pyc|.*\.sock")
"""By their names: they say what runs now, and nothing that is to be kept."""
SIGNALS = {"before": "SIGKILL", "after": "SIGUSR1"}

_CALL = re.compile(r"^(?P<thread>\d+) +(?P<kind>\w+)\((?P<rest>.*)$")
_FD = re.compile(r"^\d+<(?P<path>[^>]+)>")
_PATH = re.compile(r"\"(?P<path>[^\"]+)\"")


@dataclass(frozen=True, slots=True)
class Point:
    """`file`: relative to the directory of the role's process; `number`: of the calls of this kind on this file."""

    operation: str
    role: str
    file: str
    kind: str
    number: int
    when: str

    def __str__(self) -> str:
        return f"{self.operation}:{self.role}:{self.file}:{self.kind}:{self.number}:{self.when}"

    @staticmethod
    def parse(text: str) -> "Point":
        operation, role, file, kind, number, when = text.split(":")
        return Point(operation, role, file, kind, int(number), when)


def counting(output: Path) -> list[str]:
    """strace, which writes every call that may count down; a process is to follow (`-p PID`, or a command)."""
    kinds = ",".join(f"?{kind}" for kind in KINDS)
    return [*_strace(output), "-e", f"trace={kinds}"]


def killing(output: Path, point: Point, directory: Path) -> list[str]:
    """strace, which kills at the point; `directory`: of the role's process."""
    inject = f"inject={point.kind}:signal={SIGNALS[point.when]}:when={point.number}"
    only = ["-P", str(directory / point.file), "-e", f"trace={point.kind}", "-e", inject]
    return [*_strace(output), *only]


def _strace(output: Path) -> list[str]:
    """All threads, names of files, no contents; `-I 1`: it heeds SIGTERM."""
    return ["strace", "-f", "-y", "-s", "1", "-I", "1", "-o", str(output), "-e", "signal=none"]


def read(lines: Iterable[str], operation: str, role: str, directory: Path) -> list[Point]:
    """The points of a trace, in the order of the calls, each before and after."""
    counts: Counter[tuple[str, str, str]] = Counter()
    found: dict[Point, None] = {}
    for line in lines:
        call = _CALL.match(line)
        if call is None or call["kind"] not in KINDS:
            continue  # the end of an earlier call, or of a thread
        named = _FD.match(call["rest"]) or _PATH.search(call["rest"])
        file = _within(directory, named["path"]) if named else None
        if file is None:
            continue
        counts[call["thread"], file, call["kind"]] += 1
        if call["kind"] in OPENS and "O_CREAT" not in call["rest"]:
            continue  # counts for strace, and makes nothing
        number = counts[call["thread"], file, call["kind"]]
        for when in SIGNALS:
            found[Point(operation, role, file, call["kind"], number, when)] = None
    return list(found)


def _within(directory: Path, path: str) -> str | None:
    if not path.startswith(f"{directory}/") and path != str(directory):
        return None
    file = path[len(str(directory)) :].strip("/").removesuffix(" (deleted)") or "."
    return None if IGNORED.fullmatch(Path(file).name) else file
