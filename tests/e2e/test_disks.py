"""Disks that are full or read-only while epochs change: who has one stops and says so, nothing is lost, and it goes on
once the disk is well.

A disk under open files cannot be made read-only but by its own failure: strace has the calls answer as they do then.
"""

import os
import re
import shutil
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
def small_disk(directory: Path) -> Iterator[None]:
    """What is in the directory is on a disk of its own then."""
    aside = directory.with_name(f"{directory.name}.aside")
    directory.rename(aside)
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "none", str(directory)]
    subprocess.run(mount, check=True)
    try:
        shutil.copytree(aside, directory, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three nodes, 2 of 3; the hub and node-3 have a disk of their own each. Logs are elsewhere."""
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        fleet = Fleet(Path(where) / "data").up("--nodes", "3", "--threshold", "2")
        try:
            fleet.cli("down")
            with small_disk(fleet.data / "hub"), small_disk(fleet.data / "nodes/node-3"):
                fleet.cli("up", "--detach")
                yield fleet
                fleet.cli("down")
        finally:
            fleet.down()


@pytest.fixture(scope="module")
def blob(fleet: Fleet) -> bytes:
    kms = fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    made: bytes = kms.encrypt(KeyId=key, Plaintext=b"kept", EncryptionContext=CONTEXT)["CiphertextBlob"]
    return made


def fill(disk: Path) -> Path:
    """Takes all that is left of it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    return filler


@contextmanager
def writes_refused(fleet: Fleet, name: str, disk: Path) -> Iterator[None]:
    """As by a file system that has remounted itself read-only."""
    files = ("module/vault.redb", "module/slots", "audit.log", "hub.db", "hub.db-wal")
    calls = "write,pwrite64,fdatasync,fsync,ftruncate"
    only = [word for file in files for word in ("-P", str(disk / file))]
    command = ["strace", "-f", "-o", "/dev/null", *only, "-e", f"inject={calls}:error=EROFS", "-p"]
    strace = subprocess.Popen([*command, str(fleet.run_of(name)["pid"])], stderr=subprocess.PIPE)
    assert strace.stderr is not None
    assert b"attached" in strace.stderr.readline()
    try:
        yield
    finally:
        strace.terminate()
        strace.communicate()


def is_down(fleet: Fleet, name: str) -> bool:
    status = fleet.status()
    found = {"hub": status["hub"], **{node["name"]: node for node in status["nodes"]}}
    return found[name]["pid"] is None


def refresh_until_stopped(fleet: Fleet, name: str) -> None:
    """What is allocated already takes some writes more; each refresh succeeds or fails as a whole."""
    for _ in range(60):
        if is_down(fleet, name):
            return
        fleet.cli.works("domain", "refresh", "default")
    pytest.fail(f"{name} went on without a disk")


def last_words(fleet: Fleet, name: str) -> str:
    lines = (fleet.data / f"logs/{name}.log").read_text().splitlines()
    return next(line for line in reversed(lines) if "CRITICAL" in line)


def tells_what_to_do(words: str, disk: Path, why: str) -> None:
    assert str(disk) in words, words
    assert re.search(why, words), words
    assert re.search("disk's space and health|mend the disk", words), words


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


def test_a_node_with_a_full_disk_stops_says_which_file_and_goes_on_when_there_is_room(
    fleet: Fleet, blob: bytes
) -> None:
    disk = fleet.data / "nodes/node-3"
    filler = fill(disk)
    refresh_until_stopped(fleet, "node-3")
    tells_what_to_do(last_words(fleet, "node-3"), disk, "No space left")
    # The others go on: the change was made without it, or given up, and the next is made without it.
    fleet.lock()
    opened = fleet.client().decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
    assert opened == b"kept"
    fleet.cli("domain", "refresh", "default")
    filler.unlink()
    fleet.start("node-3")
    is_well(fleet, blob)


def test_a_hub_with_a_full_disk_stops_says_which_file_and_goes_on_when_there_is_room(
    fleet: Fleet, blob: bytes
) -> None:
    disk = fleet.data / "hub"
    filler = fill(disk)
    refresh_until_stopped(fleet, "hub")
    tells_what_to_do(last_words(fleet, "hub"), disk, "full|No space left")
    # What a lease covers is served on; an epoch is not changed, and says so.
    refused = fleet.cli("domain", "refresh", "default", fails=1).stderr
    assert "the hub does not answer" in refused
    # Nobody starts it again and again: there is nothing to be gained before there is room.
    again = fleet.cli("up", "--detach", fails=1).stderr
    tells_what_to_do(again, disk, "full|No space left")
    assert is_down(fleet, "hub")
    filler.unlink()
    fleet.cli("up", "--detach")
    is_well(fleet, blob)


@pytest.mark.parametrize("name", ["node-3", "hub"])
def test_a_disk_that_becomes_read_only_stops_its_process_alone(fleet: Fleet, blob: bytes, name: str) -> None:
    disk = fleet.data / ("hub" if name == "hub" else f"nodes/{name}")
    with writes_refused(fleet, name, disk):
        refresh_until_stopped(fleet, name)
    tells_what_to_do(last_words(fleet, name), disk, "[Rr]ead-only|readonly|disk I/O error")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        again = fleet.cli("up", "--detach", fails=1).stderr
        tells_what_to_do(again, disk, "[Rr]ead-only|readonly")
        assert is_down(fleet, name)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    fleet.cli("up", "--detach")
    is_well(fleet, blob)
