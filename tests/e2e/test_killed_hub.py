"""The hub killed in each phase of an epoch change, under load; and what an erased epoch leaves on the disks.

strace kills the hub right after the sync of an audit line or of a database transaction, so that it stands exactly
there. `tests/crashpoints` tries every call; here clients ask meanwhile.
"""

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.config import Config
from tests.e2e.fleet import Fleet, until

SLOT = 64
CONTEXT = {"made": "before"}
PATIENT = Config(retries={"total_max_attempts": 10, "mode": "standard"}, connect_timeout=2, read_timeout=5)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three nodes, 2 of 3."""
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        fleet = Fleet(Path(where) / "data")
        try:
            yield fleet.up("--nodes", "3", "--threshold", "2")
        finally:
            fleet.down()


class Load:
    """Decrypts, one after the other, as an application would: with its SDK's retries."""

    def __init__(self, fleet: Fleet) -> None:
        self._kms = fleet.client(config=PATIENT)
        key = self._kms.create_key()["KeyMetadata"]["KeyId"]
        made = self._kms.encrypt(KeyId=key, Plaintext=b"kept", EncryptionContext=CONTEXT)
        self._blob = made["CiphertextBlob"]
        self.answers: list[bytes | Exception] = []
        self._fleet = fleet

    def warm(self) -> None:
        """Every node has a lease: while the hub is away, there is no other way to serve."""
        before = {session["session"] for session in self._fleet.sessions(100)}
        self._fleet.lock()

        def leased() -> bool:
            self._fleet.client(config=PATIENT).decrypt(CiphertextBlob=self._blob, EncryptionContext=CONTEXT)
            fresh = [s for s in self._fleet.sessions(100) if s["session"] not in before]
            return len({s["requester"] for s in fresh if s["outcome"] == "combined"}) == 3

        until(leased, 60, what="a lease at every node")

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    answer = self._kms.decrypt(CiphertextBlob=self._blob, EncryptionContext=CONTEXT)
                    self.answers.append(answer["Plaintext"])
                except Exception as why:  # whatever it is, the client was failed
                    self.answers.append(why)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield
        finally:
            over.set()
            asking.join()


@pytest.fixture(scope="module")
def load(fleet: Fleet) -> Load:
    return Load(fleet)


def kill_at(fleet: Fleet, file: str, number: int) -> "subprocess.Popen[bytes]":
    """strace on the hub, which ends it when the sync of this number of the file is done."""
    path = str(fleet.data / "hub" / file)
    words = ["-f", "-o", "/dev/null", "-P", path, "-e", "trace=fdatasync"]
    words += ["-e", f"inject=fdatasync:signal=SIGUSR1:when={number}", "-p", str(fleet.run_of("hub")["pid"])]
    strace = subprocess.Popen(["strace", *words], stderr=subprocess.PIPE)
    assert strace.stderr is not None
    assert b"attached" in strace.stderr.readline()
    return strace


def settled(fleet: Fleet, name: str) -> dict[str, object] | None:
    shown: dict[str, object] = fleet.cli.json("domain", "show", name)
    whole = shown["live"] == shown["shards"] and not shown["waits_for"] and shown["earlier"] == []
    return shown if whole and not shown["change"] else None


POINTS = {
    "planned": ("audit.log", 1),
    "dealt": ("audit.log", 2),
    "committed": ("audit.log", 3),
    "erased at one": ("audit.log", 4),
    "erased at all": ("audit.log", 6),
}
"""Syncs of a refresh. A line of the audit log is durable before the row that it tells of."""


@pytest.mark.skipif(os.geteuid() != 0, reason="the processes let nobody but root trace them")
@pytest.mark.parametrize(("file", "number"), POINTS.values(), ids=POINTS)
def test_hub_killed_in_a_change_ends_it_and_fails_no_client(
    fleet: Fleet, load: Load, file: str, number: int
) -> None:
    before = until(lambda: settled(fleet, "default"), what="rest")
    load.warm()
    load.answers.clear()
    with load.running():
        strace = kill_at(fleet, file, number)
        refresh = fleet.cli.start("domain", "refresh", "default")
        strace.communicate(timeout=30)
        told = refresh.communicate(timeout=60)
        fleet.up()
        after = until(
            lambda: settled(fleet, "default"), what="one epoch in all members, nothing left to erase"
        )
        fleet.cli("domain", "refresh", "default")
    assert [answer for answer in load.answers if answer != b"kept"] == []
    assert load.answers
    if file == "audit.log" and number != 3:  # the line of the commit, and not yet its row: either is right
        assert (after["epoch"] != before["epoch"]) == (number > 3), told


def slots(fleet: Fleet, node: str) -> list[bytes]:
    content = (fleet.data / f"nodes/{node}/module/slots").read_bytes()
    return [content[at : at + SLOT] for at in range(0, len(content), SLOT)]


def places_of(fleet: Fleet, needle: bytes) -> list[Path]:
    """Every file of the data directory that holds it."""
    files = [path for path in fleet.data.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path.relative_to(fleet.data) for path in files if needle in path.read_bytes()]


def test_an_erased_epochs_slot_is_on_no_disk(fleet: Fleet) -> None:
    """The key of a share lies in one slot of its node's file: found by what the creation changed there."""
    nodes = ("node-1", "node-2", "node-3")
    until(lambda: settled(fleet, "default"), what="rest")
    before = {node: slots(fleet, node) for node in nodes}
    fleet.cli("domain", "create", "brief", "--threshold", "2", "--shards", "3")
    keys = {}
    for node in nodes:
        pairs = list(zip(before[node], slots(fleet, node), strict=True))[2:]  # the first two count commits
        (changed,) = [new for old, new in pairs if new != old]
        keys[node] = changed[:32]
        assert places_of(fleet, keys[node]) == [Path(f"nodes/{node}/module/slots")]
    fleet.cli("domain", "refresh", "brief")
    until(lambda: settled(fleet, "brief"), what="the erasure")
    assert {node: places_of(fleet, key) for node, key in keys.items()} == {node: [] for node in nodes}
