"""Fleets for the tests: one that all share who do it no harm, and fresh ones for the others."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet


def _fleet() -> Iterator[Fleet]:
    # Not pytest's directory: a Unix socket's path is at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        fleet = Fleet(Path(where) / "data")
        try:
            yield fleet.up()
        finally:
            fleet.down()


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Five nodes, 3 of 5. Leave it as it was."""
    yield from _fleet()


@pytest.fixture(scope="module")
def own_fleet() -> Iterator[Fleet]:
    """Another one, for the tests of one file, which may kill its processes and start them again."""
    yield from _fleet()
