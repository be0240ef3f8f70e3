"""Disks that are full or read-only while epochs change: who has one stops and says so, nothing is lost, and it goes on
once the disk is well.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, until

SIZE = 8 << 20
CONTEXT = {"made": "before"}


def _mounts() -> bool:
    with tempfile.TemporaryDirectory() as where:
        made = subprocess.run(["mount", "-t", "tmpfs", "none", where], capture_output=True, check=False)
        return made.returncode == 0 and subprocess.run(["umount", where], check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not _mounts(),
    reason="a small disk is mounted, which needs root and a kernel that lets it",
)


@contextmanager
def small_disk(at: Path) -> Iterator[None]:
    at.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "none", str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three nodes, 2 of 3; the hub and node-3 have a disk of their own each. Logs are elsewhere."""
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        data = Path(where) / "data"
        with small_disk(data / "hub"), small_disk(data / "nodes/node-3"):
            fleet = Fleet(data)
            try:
                yield fleet.up("--nodes", "3", "--threshold", "2")
            finally:
                fleet.cli("down")


@pytest.fixture(scope="module")
def blob(fleet: Fleet) -> bytes:
    kms = fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    made: bytes = kms.encrypt(KeyId=key, Plaintext=b"kept", EncryptionContext=CONTEXT)["CiphertextBlob"]
    return made


def fill(disk: Path) -> Path:
    """Takes all that is left of it."""
    filler = disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
            file.flush()
    return filler


def refresh_until_stopped(fleet: Fleet, name: str) -> None:
    """What is allocated already takes some writes more; each refresh succeeds or fails as a whole."""
    for _ in range(60):
        if fleet.is_down(name):
            return
        fleet.cli.works("domain", "refresh", "default")
    pytest.fail(f"{name} went on without a disk")


def last_words(fleet: Fleet, name: str) -> str:
    lines = (fleet.data / f"logs/{name}.log").read_text().splitlines()
    return next(line for line in reversed(lines) if "CRITICAL" in line)


def is_well(fleet: Fleet, blob: bytes) -> None:
    """Every member is in one epoch, nothing older is left, another change succeeds, what was sealed opens."""
    before = fleet.cli.json("domain", "show", "default")["epoch"]
    until(lambda: fleet.cli.works("domain", "refresh", "default"), what="another refresh")

    def settled() -> bool:
        shown = fleet.cli.json("domain", "show", "default")
        return shown["live"] == 3 and not shown["waits_for"] and shown["erasure_debt"] == 0

    until(settled, what="one epoch in all members")
    assert fleet.cli.json("domain", "show", "default")["epoch"] > before
    fleet.lock()
    opened = fleet.client().decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
    assert opened == b"kept"
