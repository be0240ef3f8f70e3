"""What the memory of a running fleet holds, read as root: secrets in the locked arena alone, and only while in use."""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.e2e import scanner
from tests.e2e.fleet import Fleet, code_of, until

TESTING = os.environ.get("QUORATE_TESTING_PATH", "")
NAMES = ("hub", "node-1", "node-2", "node-3", "node-4", "node-5")
STANDING = 5
"""What a module keeps in the arena: its two identity seeds, its vault's root, the fleet key, and what that wraps
tokens with."""

CAP_IPC_LOCK, CAP_SYS_PTRACE = 14, 19

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

    def live(self, names: tuple[str, ...] = NAMES) -> set[bytes]:
        """What lies in their arenas; a slot holds 32 bytes, and what is longer."""
        slots = set().union(*(scanner.arena(int(self.run_of(name)["pid"])) for name in names))
        return {slot[:32] for slot in slots}

    def is_ready(self, nodes: int) -> bool:
        found = self.status()
        return [node["state"] for node in found["nodes"]] == ["ready"] * nodes and bool(found["domains"])

    @property
    def testing(self) -> dict[str, str]:
        return {name: self.cli.env[name] for name in ("PYTHONPATH", "QUORATE_TESTING_NEEDLES")}

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


def test_n87_nothing_is_left_of_a_lease_that_ended_by_itself(watched: Watched) -> None:
    watched.cli("domain", "create", "brief", "--lease-seconds", "2")
    kms = watched.client()
    tags = [{"TagKey": "quorate:domain", "TagValue": "brief"}]
    use(watched, kms.create_key(Tags=tags)["KeyMetadata"]["KeyId"])
    before = watched.live()
    watched.lock()  # the other domain's lease is none of this
    until(lambda: before - watched.live(), what="the end of the lease")
    until(
        lambda: all(len(scanner.arena(pid)) <= STANDING + 1 for pid in watched.pids.values()),
        what="empty arenas",
    )
    assert watched.search(watched.let_go()) == []


def test_n59_a_lease_that_ended_while_the_process_stood_still_serves_nothing_afterwards(
    watched: Watched,
) -> None:
    """A call waits in its socket when it goes on. The hub stands still, too, so that there is no new lease: the old
    keys are erased, and the call is refused.
    """
    watched.cli("domain", "create", "paused", "--lease-seconds", "2")
    kms = watched.client()
    tags = [{"TagKey": "quorate:domain", "TagValue": "paused"}]
    key = kms.create_key(Tags=tags)["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"kept")["CiphertextBlob"]
    busy = max(NAMES[1:], key=lambda name: len(scanner.arena(watched.pids[name])))
    pid, hub = watched.pids[busy], watched.pids["hub"]
    until(lambda: len(scanner.arena(pid)) <= STANDING + 1, what="the end of the first lease")
    idle = scanner.arena(pid)
    kms.decrypt(CiphertextBlob=blob)
    over = time.monotonic() + 2.0
    leased = scanner.arena(pid) - idle
    assert leased, "another node has served"
    os.kill(hub, signal.SIGSTOP)
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(kms.decrypt, CiphertextBlob=blob)
            until(lambda: time.monotonic() > over, what="the end of the lease")
            assert leased <= scanner.arena(pid), "it stands still, with the keys in its memory"
            os.kill(pid, signal.SIGCONT)
            with pytest.raises(ClientError) as refused:
                waiting.result()
            assert code_of(refused) == "KeyUnavailableException"
        assert not leased & scanner.arena(pid)
        assert scanner.Search({slot[:32] for slot in leased}).process(pid) == []
    finally:
        os.kill(pid, signal.SIGCONT)
        os.kill(hub, signal.SIGCONT)
    watched.until_live(5, "paused")
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"kept"


def test_n87_a_node_that_begins_to_stop_has_dropped_all_that_was_in_use(watched: Watched, key: str) -> None:
    use(watched, key)
    _, busy = max((len(scanner.arena(pid)), name) for name, pid in watched.pids.items() if name != "hub")
    pid = watched.pids[busy]
    before = scanner.arena(pid)
    assert len(before) > STANDING + 1
    os.kill(pid, signal.SIGTERM)
    while len(scanner.arena(pid)) >= len(before):  # no pause: what follows is quick
        assert Path(f"/proc/{pid}/maps").read_bytes(), "it ended with its arena as it was"
    os.kill(pid, signal.SIGSTOP)
    try:
        assert len(scanner.arena(pid)) <= STANDING
        assert scanner.Search({slot[:32] for slot in before - scanner.arena(pid)}).process(pid) == []
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{pid}/maps").exists(), what="the end")
    watched.start(busy, **watched.testing)
    watched.until_live(5)


def test_n87_the_command_that_set_up_a_fleet_keeps_none_of_its_secrets(tmp_path: Path) -> None:
    """`up` without `--detach` stays: it has opened the operator key, and made modules and an access key."""
    fleet = Watched(tmp_path)
    up = fleet.cli.start("up", "--port", "0", "--nodes", "3", "--threshold", "2")
    try:
        until(lambda: (fleet.data / "hub/run.json").exists() and fleet.is_ready(3), 60, what="the fleet")
        needles = scanner.kept(fleet.needles, up.pid) | fleet.live(NAMES[:4])
        assert len(needles) > 10
        # But for the access key's secret, which it wrote to DATA/credentials as text (docs/threat-model.md).
        shown = fleet.env["AWS_SECRET_ACCESS_KEY"].encode()
        assert {hit.needle for hit in scanner.Search(needles).process(up.pid)} <= {shown}
        assert scanner.arena(up.pid) == set()
    finally:
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=60)
        fleet.down()


@pytest.mark.parametrize("hardened", [False, True], ids=["any other process", "a process of ours"])
def test_n86_gcore_fails_as_a_user_without_privileges(tmp_path: Path, hardened: bool) -> None:
    """The process's own user, without the right to trace whatever he likes; else the test could not fail."""
    first = "__import__('quorate._core')._core.harden_process()" if hardened else "pass"
    with subprocess.Popen(
        [sys.executable, "-c", f"{first}; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: drop(CAP_SYS_PTRACE),
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        ran = subprocess.run(
            ["gcore", "-o", tmp_path / "core", str(child.pid)],
            preexec_fn=lambda: drop(CAP_SYS_PTRACE),
            capture_output=True,
            timeout=60,
        )
        child.kill()
    assert (ran.returncode == 0, bool(list(tmp_path.iterdir()))) == (not hardened, not hardened)


def drop(capability: int) -> None:
    """What is executed next can not have it, root or not (prctl PR_CAPBSET_DROP)."""
    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0


def test_n86_without_locked_memory_nothing_starts_unless_it_is_allowed(tmp_path: Path) -> None:
    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            drop(CAP_IPC_LOCK)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))

        command = [sys.executable, "-m", "quorate", *words, "--data", str(tmp_path / "data")]
        return subprocess.run(
            command,
            env=os.environ | environment,
            preexec_fn=limit,
            capture_output=True,
            text=True,
            timeout=60,
        )

    shape = ("up", "--detach", "--port", "0", "--nodes", "3", "--threshold", "2")
    refused = run(*shape)
    assert refused.returncode == 1
    assert "cannot lock 1048576 bytes for secrets" in refused.stderr
    assert "ulimit -l" in refused.stderr
    try:
        allowed = run(*shape, QUORATE_ALLOW_UNLOCKED_MEMORY="1")
        assert allowed.returncode == 0, allowed.stderr
        found = json.loads(run("status", "--json").stdout)
        assert [found["hub"]["memory_locked"], *(node["memory_locked"] for node in found["nodes"])] == [
            False
        ] * 4
        assert "secrets of hub, node-1, node-2, node-3 can be swapped to disk" in run("status").stdout
    finally:
        run("down", "--purge", "--yes")


def test_without_wiping_the_scanner_finds_what_was_let_go(watched: Watched, key: str) -> None:
    """The last one here: a fleet that wipes nothing."""
    for name in NAMES[1:]:
        watched.kill(name)
        watched.start(
            name,
            **watched.testing,
            QUORATE_TESTING_NO_WIPING="1",
        )
    watched.until_live(5)
    until(lambda: _used(watched, key), what="a use after the restart")
    watched.lock()
    assert len([hit for hit in watched.search(watched.let_go()) if "in the arena" in hit]) > 10


def _used(fleet: Fleet, key: str) -> bool:
    use(fleet, key)
    return True
