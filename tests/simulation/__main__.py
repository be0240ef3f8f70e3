"""`python -m tests.simulation`: schedules from a seed on; one line at the end, exit code 1 if anything was violated.

Here: arguments, progress, what a failure shows. Not here: schedules (`schedule`).
"""

import argparse
import os
import sys
import time

SETTINGS = {
    "PYTHONHASHSEED": "0",
    "QUORATE_ALLOW_UNLOCKED_MEMORY": "1",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
}
"""Sets are iterated in the order of their hashes: one seed is one trace only if these are the same. The heap keeps what
it has: vaults come and go a thousand times a second.
"""


def main() -> int:
    arguments = _arguments()
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], os.environ | SETTINGS
        )
    from quorate import _core

    from .batch import outcomes

    if not _core.build_info()["testing"]:
        print("this core has no `testing` feature: run `make testing-core`, and set PYTHONPATH=.venv/testing")
        return 2
    seeds = range(arguments.seed, arguments.seed + arguments.schedules)
    began, done, committed, sessions, failed = time.monotonic(), 0, 0, 0, []
    also, fast = frozenset(arguments.also.split(",")), arguments.core == "fast"
    for outcome in outcomes(seeds, arguments.jobs, also, fast):
        done += 1
        committed += outcome.committed
        sessions += outcome.sessions
        if arguments.trace:
            print(outcome.seed, outcome.trace)
        if arguments.verbose:
            print("\n".join(outcome.lines))
        if outcome.violations:
            failed.append(outcome)
            if not arguments.verbose:
                print("\n".join(outcome.lines[-arguments.lines :]))
            print(f"seed {outcome.seed}: {'; '.join(outcome.violations)}")
            more = f" ALSO={arguments.also}" if arguments.also else ""
            more += "" if fast else " CORE=real"
            print(f"again: make simulate SCHEDULES=1 SEED={outcome.seed}{more}", flush=True)
            if len(failed) == arguments.failures:
                break
        if done % 100 == 0:
            speed = done / (time.monotonic() - began)
            print(
                f"… {done} schedules, {speed:.1f} a second, {sessions} sessions",
                flush=True,
            )
    lost = sum(any(v.startswith("enough") for v in outcome.violations) for outcome in failed)
    print(f"schedules: {done}, epochs committed: {committed}, violations: {len(failed)}, lost keys: {lost}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--core",
        choices=("fast", "real"),
        default="fast",
        help="fast: a stand-in for curves, all else as it is",
    )
    parser.add_argument("--verbose", action="store_true", help="print each schedule's last events")
    parser.add_argument("--trace", action="store_true", help="print each seed with the hash of its events")
    parser.add_argument("--lines", type=int, default=40, help="events shown of a schedule that fails")
    parser.add_argument(
        "--also",
        default="",
        help="kinds of faults that every schedule is to have (of schedule.UNFAIR, too), or `all` for those in OPEN",
    )
    parser.add_argument("--failures", type=int, default=10, help="how many end the run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
