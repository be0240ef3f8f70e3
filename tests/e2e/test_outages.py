"""What keeps working when processes die, and what fails clearly (the tour's claims, and more)."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.e2e.fleet import Fleet, code_of, until

DATA = os.urandom(3 << 20)


@pytest.fixture
def whole(own_fleet: Fleet) -> Iterator[Fleet]:
    """All five nodes and the hub are there, before and after."""
    yield own_fleet
    own_fleet.up()  # starts again what is down
    own_fleet.until_live(5)


@pytest.fixture(scope="module")
def kms(own_fleet: Fleet) -> Any:
    return own_fleet.client()


@pytest.fixture(scope="module")
def sealed(kms: Any) -> dict[str, Any]:
    """A file, encrypted by envelope."""
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    context = {"file": "data"}
    made = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
    nonce = os.urandom(12)
    return {
        "key": key,
        "context": context,
        "blob": made["CiphertextBlob"],
        "nonce": nonce,
        "body": AESGCM(made["Plaintext"]).encrypt(nonce, DATA, None),
    }


def opened(kms: Any, sealed: dict[str, Any]) -> bytes:
    key = kms.decrypt(CiphertextBlob=sealed["blob"], EncryptionContext=sealed["context"])["Plaintext"]
    return AESGCM(key).decrypt(sealed["nonce"], sealed["body"], None)


def test_two_nodes_killed_and_a_file_decrypts_by_a_fresh_quorum(
    whole: Fleet, kms: Any, sealed: dict[str, Any]
) -> None:
    whole.kill("node-4")
    whole.kill("node-5")
    assert sorted(whole.lock()["locked"]) == ["node-1", "node-2", "node-3"]
    before = {session["session"] for session in whole.sessions()}
    assert opened(kms, sealed) == DATA
    fresh = [s for s in whole.sessions() if s["session"] not in before and s["outcome"] == "combined"]
    assert {called["node"] for called in fresh[0]["called"]} == {"node-1", "node-2", "node-3"}
    assert all(called["ms"] is not None for called in fresh[0]["called"])


def test_a_third_node_killed_fails_within_two_seconds_and_heals_by_itself(
    whole: Fleet, kms: Any, sealed: dict[str, Any]
) -> None:
    for name in ("node-3", "node-4", "node-5"):
        whole.kill(name)
    whole.lock()
    begun = time.monotonic()
    with pytest.raises(ClientError) as failure:
        opened(kms, sealed)
    assert code_of(failure) == "KeyUnavailableException"
    assert time.monotonic() - begun < 2.0
    whole.start("node-3")
    assert until(lambda: _try(kms, sealed), what="Decrypt after the node's return") == DATA


def test_a_silent_holder_costs_one_substitute_and_no_error(
    whole: Fleet, kms: Any, sealed: dict[str, Any]
) -> None:
    """SIGSTOP: the link stays up, and nothing comes. Stopped is a node that the hub called just before; it may
    call others this time, then another is tried.
    """
    # The kernel may give the stopped node a connection: then the handshake hangs, and the SDK tries again.
    client = whole.client(config=Config(retries={"total_max_attempts": 6}, connect_timeout=2, read_timeout=3))
    for _ in range(12):
        whole.until_live(5)
        whole.lock()
        assert opened(client, sealed) == DATA
        last = whole.sessions(1)[0]
        silent = next(call["node"] for call in last["called"] if call["node"] != last["requester"])
        whole.lock()
        whole.pause(silent)
        try:
            assert opened(client, sealed) == DATA
        finally:
            os.kill(whole.run_of(silent)["pid"], signal.SIGCONT)
        session = until(lambda: _ended(whole.sessions(1)[0]), what="the session's end")
        assert session["outcome"] == "combined"
        if silent in {call["node"] for call in session["called"] if call["ms"] is None}:
            assert len(session["called"]) > 3
            assert session["ms"] < 500
            return
    pytest.fail("the hub called the stopped node in none of 12 tries")


def _ended(session: dict[str, Any]) -> dict[str, Any] | None:
    return None if session["outcome"] == "open" else session


def test_hub_down_leases_serve_on_and_what_needs_the_hub_fails_clearly(
    whole: Fleet, kms: Any, sealed: dict[str, Any]
) -> None:
    whole.lock()
    assert opened(kms, sealed) == DATA  # one node at least has a lease now
    whole.kill("hub")
    for _ in range(5):
        assert opened(kms, sealed) == DATA
        blob = kms.encrypt(KeyId=sealed["key"], Plaintext=b"x")["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
        assert len(kms.generate_data_key(KeyId=sealed["key"], KeySpec="AES_256")["Plaintext"]) == 32
    begun = time.monotonic()
    with pytest.raises(ClientError) as failure:
        kms.create_key()
    assert code_of(failure) in ("KeyUnavailableException", "DependencyTimeoutException")
    assert time.monotonic() - begun < 2.0
    status = whole.status()
    assert status["hub"]["state"] == "down"
    assert sum(node["pid"] is not None for node in status["nodes"]) == 5


def test_hub_down_without_a_lease_is_unavailable_and_comes_back_with_the_hub(
    whole: Fleet, kms: Any, sealed: dict[str, Any]
) -> None:
    whole.lock()
    whole.kill("hub")
    begun = time.monotonic()
    with pytest.raises(ClientError) as failure:
        opened(kms, sealed)
    assert code_of(failure) == "KeyUnavailableException"
    assert time.monotonic() - begun < 2.0
    whole.up()
    assert until(lambda: _try(kms, sealed), what="Decrypt after the hub's return") == DATA


def test_nodes_killed_and_restarted_while_a_client_loops_cause_no_error(
    whole: Fleet, sealed: dict[str, Any]
) -> None:
    """With the SDK's own retries: no wrong result and no error while three nodes or more are live."""
    looping = whole.client(config=Config(connect_timeout=2, read_timeout=5))
    stop = threading.Event()
    good: list[int] = []
    bad: list[str] = []

    def loop() -> None:
        while not stop.is_set():
            try:
                if opened(looping, sealed) == DATA:
                    good.append(1)
                else:
                    bad.append("wrong plaintext")
            except Exception as why:
                bad.append(repr(why))

    client = threading.Thread(target=loop)
    client.start()
    try:
        for name in ("node-1", "node-2", "node-3", "node-4", "node-5", "node-1"):
            before = len(good)
            whole.kill(name)
            if name != "node-3":
                whole.lock()
            until(lambda before=before: len(good) > before + 5 or bad, what="calls after a kill")  # type: ignore[misc]
            whole.start(name)
            whole.until_live(5)
    finally:
        stop.set()
        client.join()
    assert bad == []
    assert len(good) > 30


def test_n96_five_cold_nodes_asked_at_once_all_get_their_lease(whole: Fleet, sealed: dict[str, Any]) -> None:
    for _ in range(3):
        whole.lock()
        clients = [whole.client() for _ in range(10)]  # a connection each: the kernel spreads them
        results: list[bytes | Exception] = []

        def ask(client: Any, into: list[bytes | Exception]) -> None:
            try:
                into.append(opened(client, sealed))
            except Exception as why:
                into.append(why)

        threads = [threading.Thread(target=ask, args=(client, results)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result == DATA for result in results] == [True] * 10, results


def _try(kms: Any, sealed: dict[str, Any]) -> bytes | None:
    try:
        return opened(kms, sealed)
    except ClientError:
        return None
