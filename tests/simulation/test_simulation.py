"""A minute of simulated schedules; that one seed is one trace; and the seeds that failed once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTING = os.environ.get("QUORATE_TESTING_PATH", "")
ROOT = Path(__file__).resolve().parents[2]
REPLAYS = sorted(Path(__file__).with_name("replays").glob("*.txt"))
SCHEDULES = 100

pytestmark = pytest.mark.skipif(not TESTING, reason="needs a core with its `testing` feature")


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([TESTING, str(ROOT)])}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_no_schedule_violates_an_invariant() -> None:
    ran = simulate("--seed", "1", "--schedules", str(SCHEDULES))
    last = ran.stdout.splitlines()[-1]
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = re.fullmatch(
        rf"schedules: {SCHEDULES}, epochs committed: (\d+), violations: 0, lost keys: 0", last
    )
    assert found is not None and int(found[1]) > SCHEDULES


def test_one_seed_is_one_trace() -> None:
    first, second = (simulate("--seed", "7", "--schedules", "4", "--trace").stdout for _ in range(2))
    assert first == second
    traces = [line.split()[1] for line in first.splitlines()[:4]]
    assert len(set(traces)) == 4


@pytest.mark.parametrize("replay", REPLAYS, ids=lambda path: path.stem)
def test_a_seed_that_failed_once(replay: Path) -> None:
    """Each file: how to run it in its first line, after `open` where it fails still; what it found below."""
    arguments = replay.read_text().splitlines()[0].split()
    is_open = arguments[0] == "open"
    ran = simulate(*arguments[is_open:])
    if is_open and ran.returncode == 1:
        pytest.xfail(ran.stdout.splitlines()[-1])
    assert ran.returncode == 0, ran.stdout + ran.stderr
