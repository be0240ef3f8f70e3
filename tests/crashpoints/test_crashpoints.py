"""A sample of the crash points: a commit of a member's vault, the hub's decision, an erasure, the making of a module.
`make crashpoints` tries all.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crashpoints.__main__ import place
from tests.crashpoints.attempt import attempt
from tests.crashpoints.fleet import Fleet
from tests.crashpoints.points import Point, read

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the processes let nobody but root trace them"),
    pytest.mark.skipif(
        shutil.which("strace") is None, reason="strace is missing (scripts/system-packages.sh tests)"
    ),
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="points-", dir=place()) as where:
        fleet = Fleet(Path(where))
        try:
            asyncio.run(fleet.found())
            yield fleet
        finally:
            fleet.kill_all()


SAMPLE = (
    "init:node-5:module.creating/vault.redb:fdatasync:5:after",
    "refresh:node-1:module/vault.redb:fdatasync:6:before",
    "refresh:node-1:module/slots:pwrite64:7:before",
    "refresh:hub:audit.log:fdatasync:3:after",
)


@pytest.mark.parametrize("text", SAMPLE)
def test_a_kill_there_loses_nothing_and_blocks_nothing(fleet: Fleet, text: str) -> None:
    verdict = asyncio.run(attempt(fleet, Point.parse(text)))
    assert (verdict.result, verdict.why) == ("well", "")


def test_calls_are_numbered_by_thread_file_and_kind() -> None:
    lines = [
        '7 openat(AT_FDCWD</>, "/d/module/slots", O_RDONLY) = 3</d/module/slots>',
        '7 openat(AT_FDCWD</>, "/d/module/slots", O_RDWR|O_CREAT, 0600) = 3</d/module/slots>',
        '7 pwrite64(3</d/module/slots>, "x"..., 64, 0 <unfinished ...>',
        '8 write(4</d/audit.log>, "x"..., 9) = 9',
        "7 <... pwrite64 resumed>) = 64",
        '7 pwrite64(3</d/module/slots>, "x"..., 64, 0) = 64',
        '8 write(5</d/run.json.new>, "x"..., 9) = 9',
        '8 write(6</elsewhere/d/audit.log>, "x"..., 9) = 9',
        "7 +++ exited with 0 +++",
    ]
    found = read(lines, "refresh", "hub", Path("/d"))
    assert [(p.file, p.kind, p.number) for p in found if p.when == "before"] == [
        ("module/slots", "openat", 2),
        ("module/slots", "pwrite64", 1),
        ("audit.log", "write", 1),
        ("module/slots", "pwrite64", 2),
    ]
    assert {p.when for p in found} == {"before", "after"}
