"""`python -m tests.simulation` as a test runs it, in a process of its own.

Here: the command, and what its last line must be. Not here: schedules (`schedule`).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTING = os.environ.get("QUORATE_TESTING_PATH", "")
ROOT = Path(__file__).resolve().parents[2]


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "tests.simulation", *arguments)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([TESTING, str(ROOT)])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def passes(*, seed: int, schedules: int, core: str) -> None:
    """Nothing is violated, and there was something to violate."""
    ran = simulate("--seed", str(seed), "--schedules", str(schedules), "--core", core)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    line = rf"schedules: {schedules}, epochs committed: (\d+), violations: 0, lost keys: 0"
    found = re.fullmatch(line, ran.stdout.splitlines()[-1])
    assert found is not None and int(found[1]) > schedules


def traces(*arguments: str) -> list[str]:
    """A hash of all that happened, for each seed."""
    ran = simulate(*arguments, "--trace")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [line.split()[1] for line in ran.stdout.splitlines() if re.fullmatch(r"\d+ [0-9a-f]{64}", line)]
