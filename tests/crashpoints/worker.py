"""A process with a fleet of its own, which works off points one after another.

Here: what the main process has it do. Not here: how (`attempt`).
"""

import asyncio
import os
from pathlib import Path

from tests.crashpoints import attempt as points
from tests.crashpoints.attempt import Verdict
from tests.crashpoints.fleet import Fleet
from tests.crashpoints.points import Point

_fleet: Fleet


def begin(where: str) -> None:
    global _fleet
    own = Path(where) / str(os.getpid())
    own.mkdir()
    _fleet = Fleet(own)
    asyncio.run(_fleet.found())


def count(what: tuple[str, str]) -> tuple[str, str, list[Point]]:
    """The points of an operation and a role."""
    return *what, asyncio.run(points.count(_fleet, *what))


def attempt(point: Point) -> Verdict:
    return asyncio.run(points.attempt(_fleet, point))
