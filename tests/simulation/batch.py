"""Schedules one after another, in this process or in several.

Not in `__main__`: a process that multiprocessing starts does not import that of a package.
"""

from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context

from .core import use_stand_in
from .founding import found, scratch
from .schedule import Outcome, run


def outcomes(seeds: range, jobs: int, also: frozenset[str], fast: bool) -> Iterator[Outcome]:
    """In the order of the seeds."""
    if jobs == 1:
        yield from _in_order(seeds, also, fast)
        return
    chunks = [seeds[at : at + 20] for at in range(0, len(seeds), 20)]
    with get_context("spawn").Pool(jobs) as pool:
        for chunk in pool.imap(partial(_chunk, also=also, fast=fast), chunks):
            yield from chunk


def _chunk(seeds: range, also: frozenset[str], fast: bool) -> list[Outcome]:
    return list(_in_order(seeds, also, fast))


def _in_order(seeds: range, also: frozenset[str], fast: bool) -> Iterator[Outcome]:
    if fast:
        use_stand_in()
    with scratch() as path:
        founded = found(path)
        for seed in seeds:
            yield run(seed, founded, also)
