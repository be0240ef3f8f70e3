"""What the memory of a running fleet holds, read as root: secrets in the locked arena alone, and only while in use."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import scanner
from tests.e2e.fleet import Fleet, until

TESTING = os.environ.get("QUORATE_TESTING_PATH", "")
NAMES = ("hub", "node-1", "node-2", "node-3", "node-4", "node-5")
STANDING = 5
"""What a module keeps in the arena: its two identity seeds, its vault's root, the fleet key, and what that wraps
tokens with."""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's memory needs root"),
    pytest.mark.skipif(not TESTING, reason="needs the core's `testing` build, which `make test` makes"),
]


class Watched(Fleet):
    """A fleet whose processes write down every secret that they let go."""

    def __init__(self, where: Path) -> None:
        super().__init__(where / "data")
        self.needles = where / "needles"
        self.needles.mkdir()
        self.cli.env |= {"PYTHONPATH": TESTING, "QUORATE_TESTING_NEEDLES": str(self.needles)}

    @property
    def pids(self) -> dict[str, int]:
        return {name: int(self.run_of(name)["pid"]) for name in NAMES}

    def let_go(self) -> set[bytes]:
        """By the processes that run now, not by those that set the fleet up."""
        return set().union(*(scanner.kept(self.needles, pid) for pid in self.pids.values()))

    def live(self) -> set[bytes]:
        """What lies in all arenas; a slot holds 32 bytes, and what is longer."""
        slots = set().union(*(scanner.arena(pid) for pid in self.pids.values()))
        return {slot[:32] for slot in slots}

    def search(self, needles: set[bytes]) -> list[str]:
        found = scanner.Search(needles)
        return [f"{name}: {hit}" for name, pid in self.pids.items() for hit in found.process(pid)]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        fleet = Watched(Path(where))
        try:
            fleet.up()
            yield fleet
        finally:
            fleet.down()


@pytest.fixture(scope="module")
def key(watched: Watched) -> str:
    made: str = watched.client().create_key()["KeyMetadata"]["KeyId"]
    return made


def use(fleet: Fleet, key: str) -> None:
    """Every kind of secret comes into use: a session, a backing key, a data key, an access key's secret."""
    kms: Any = fleet.client()
    blob = kms.encrypt(KeyId=key, Plaintext=b"a secret of the application")["CiphertextBlob"]
    kms.decrypt(CiphertextBlob=blob)
    kms.generate_data_key(KeyId=key, KeySpec="AES_256")


@pytest.mark.parametrize("form", ["bytes.fromhex(text)", "text.encode()", "text.upper().encode()", "b64"])
def test_the_scanner_finds_a_planted_canary_in_each_form_at_any_place(form: str) -> None:
    canary = os.urandom(32)
    plant = (
        "import base64, sys\n"
        "text = sys.stdin.readline().strip()\n"
        "b64 = base64.b64encode(b'7' + bytes.fromhex(text))\n"
        f"kept = [bytearray(b'.' * gap + {form}[1:-1]) for gap in range(9)]\n"
        "del text, b64\n"
        "print('planted', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", plant]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(canary.hex() + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == "planted\n"
        found = {hit.form for hit in scanner.Search({canary}).process(child.pid)}
        nothing = scanner.Search({os.urandom(32)}).process(child.pid)
    assert {"bytes.fromhex(text)": "raw", "b64": "base64"}.get(form, "hexadecimal") in found
    assert nothing == []


def test_n87_nothing_of_the_dealing_is_left_anywhere(watched: Watched) -> None:
    """Of the domain key, its shares and sub-shares, the plan's KEM keys."""
    needles = watched.let_go()
    assert len(needles) > 20, "the dealing let go of more than that"
    assert watched.search(needles) == []
    assert [len(scanner.arena(pid)) for pid in watched.pids.values()] == [STANDING] * len(NAMES)


def test_n87_what_is_in_use_lies_in_the_arena_alone(watched: Watched, key: str) -> None:
    use(watched, key)
    live = watched.live()
    assert len(live) > STANDING
    assert [hit for hit in watched.search(live) if "in the arena" not in hit] == []
    assert watched.search(watched.let_go() - live) == []


def test_n87_a_lock_leaves_nothing_of_the_lease_and_the_session(watched: Watched, key: str) -> None:
    use(watched, key)
    before = watched.live()
    watched.lock()
    needles = watched.let_go()
    assert before - watched.live(), "the lease's keys were in the arena"
    assert watched.search(needles) == []
    # Beside what a module keeps: the day's signing key of the access key that was used.
    for pid in watched.pids.values():
        assert len(scanner.arena(pid)) <= STANDING + 1


def test_without_wiping_the_scanner_finds_what_was_let_go(watched: Watched, key: str) -> None:
    """The last one here: a fleet that wipes nothing."""
    for name in NAMES[1:]:
        watched.kill(name)
        watched.start(
            name,
            **{name: watched.cli.env[name] for name in ("PYTHONPATH", "QUORATE_TESTING_NEEDLES")},
            QUORATE_TESTING_NO_WIPING="1",
        )
    watched.until_live(5)
    until(lambda: _used(watched, key), what="a use after the restart")
    watched.lock()
    assert len([hit for hit in watched.search(watched.let_go()) if "in the arena" in hit]) > 10


def _used(fleet: Fleet, key: str) -> bool:
    use(fleet, key)
    return True
