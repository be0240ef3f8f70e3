"""`python -m tests.crashpoints`: counts the points of operations, then kills a process at each; verdicts at the end.

Here: arguments, the work of several fleets side by side, progress, what a failure shows.
Not here: what is done at a point (`attempt`).
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from tests.crashpoints import worker
from tests.crashpoints.attempt import Verdict
from tests.crashpoints.operations import OPERATIONS
from tests.crashpoints.points import Point


def place() -> str | None:
    """Where syncs cost little, if there is such a place: a kill loses nothing that was written, synced or not."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    arguments = _arguments()
    if shutil.which("strace") is None:
        print("strace is missing: run `scripts/system-packages.sh tests`")
        return 2
    if os.geteuid() != 0:
        print("the processes let nobody but root trace them: run this as root")
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="points-", dir=place()) as where:
        made = ProcessPoolExecutor(
            arguments.jobs, get_context("spawn"), initializer=worker.begin, initargs=(where,)
        )
        try:
            with made as pool:
                chosen = _chosen(arguments, pool)
                print(f"{len(chosen)} points, after {time.monotonic() - began:.0f} s", flush=True)
                verdicts = list(_verdicts(pool, chosen))
        finally:
            _end_all(where)
    results = Counter(verdict.result for verdict in verdicts)
    well = [verdict.seconds for verdict in verdicts if verdict.result == "well"]
    print(
        f"took {time.monotonic() - began:.0f} s; the slowest was well again after {max(well, default=0):.1f} s"
    )
    if results["unreached"]:
        print(f"unreached, so not counted: {results['unreached']}")
    done = len(verdicts) - results["unreached"]
    print(f"points: {done}, lost: {results['lost']}, stuck: {results['stuck']}")
    return 1 if results["lost"] or results["stuck"] or not done else 0


def _end_all(where: str) -> None:
    """Whatever still works on a directory below `where`: of a worker that was stopped."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{where}/".encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints")
    parser.add_argument("--operation", default="", help=f"of {', '.join(OPERATIONS)}; several with commas")
    parser.add_argument("--role", default="", help="hub, node-1, …")
    parser.add_argument("--every", type=int, default=1, help="every n-th point only")
    parser.add_argument("--offset", type=int, default=0, help="from which of them on")
    parser.add_argument("--jobs", type=int, default=1, help="fleets at a time")
    parser.add_argument("--point", default="", help="this one, as a failure shows it")
    parser.add_argument("--list", action="store_true", help="only count")
    return parser.parse_args()


def _chosen(arguments: argparse.Namespace, pool: Executor) -> list[Point]:
    if arguments.point:
        return [Point.parse(arguments.point)]
    names = arguments.operation.split(",") if arguments.operation else list(OPERATIONS)
    roles = [
        (name, role) for name in names for role in OPERATIONS[name].roles if arguments.role in ("", role)
    ]
    found: list[Point] = []
    for name, role, here in pool.map(worker.count, roles):
        print(f"{name}, {role}: {len(here)} points", flush=True)
        found += here
    if arguments.list:
        print("\n".join(map(str, found)))
        return []
    return found[arguments.offset :: arguments.every]


def _verdicts(pool: Executor, chosen: Sequence[Point]) -> Iterator[Verdict]:
    """In the order of their ends; tells of failures, and how far it is."""
    began = time.monotonic()
    for done, ended in enumerate(as_completed([pool.submit(worker.attempt, point) for point in chosen]), 1):
        verdict = ended.result()
        if verdict.result in ("lost", "stuck"):
            print(f"{verdict.result}: {verdict.point}: {verdict.why}")
            print(f"again: make crashpoints POINT={verdict.point}", flush=True)
        if done % 20 == 0:
            print(f"… {done} of {len(chosen)}, {(time.monotonic() - began) / done:.1f} s each", flush=True)
        yield verdict


if __name__ == "__main__":
    sys.exit(main())
