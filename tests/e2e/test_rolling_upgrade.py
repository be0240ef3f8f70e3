"""A fleet moves to a build with a newer message version, one process after the other, while clients work.

That build is the core with its `testing` feature, told to speak version 2 besides.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from tests.e2e.fleet import Cli, Fleet, until

from quorate import _core

TESTING = os.environ.get("QUORATE_TESTING_PATH", "")
RAISED = {"PYTHONPATH": TESTING, "QUORATE_TESTING_MESSAGE_VERSION": "2"}
NODES = [f"node-{n}" for n in range(1, 6)]

pytestmark = pytest.mark.skipif(
    not TESTING, reason="needs the core's `testing` build, which `make test` makes"
)

OF_VERSION_3 = """
import asyncio, sys
from pathlib import Path
from quorate import _core
from quorate.ids import HUB, NodeId
from quorate.node.directory import Directory
from quorate.wire.links import Address, Links

async def send(data, name):
    directory = Directory.of(Path(data), name)
    module = _core.Module.open(directory.module)
    hub = next(entry for entry in module.entries() if entry["name"] == "hub")
    message = bytearray(module.seal("hub", "link/hello", _core.encode([])))
    message[message.index(bytes([0x8A, 1, 0x50])) + 1] = 3  # its version, the first item of its header
    up, ended = asyncio.Event(), asyncio.Event()
    links = Links(
        NodeId(name), directory.tls, on_message=lambda _sender, _message: ended.set(), on_up=lambda _peer: up.set()
    )
    links.set_peers({HUB: Address.parse(hub["address"])})
    await asyncio.wait_for(up.wait(), 10)
    links.post(HUB, bytes(message))
    await asyncio.wait_for(ended.wait(), 10)  # the hub's own hello: it reads what we sent
    await links.close()

asyncio.run(send(*sys.argv[1:]))
"""


class Load:
    """Clients with the SDK's own retries, a connection for each call, so that every node is asked."""

    def __init__(self, fleet: Fleet, key: str, blob: bytes) -> None:
        self.good = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        kms = fleet.client(config=Config(retries={"mode": "standard"}, connect_timeout=2, read_timeout=5))
        kms.meta.events.register("before-send.kms", _close_after)
        self._threads = [threading.Thread(target=self._work, args=(kms, key, blob)) for _ in range(2)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until_more(self, count: int = 20) -> None:
        before = self.good
        until(lambda: self.good >= before + count or self.failed, 30, what="answers")

    def _work(self, kms: Any, key: str, blob: bytes) -> None:
        while not self._stop.is_set():
            try:
                assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"kept"
                kms.encrypt(KeyId=key, Plaintext=b"new")
                self.good += 2
            except Exception as why:
                self.failed.append(repr(why))


def _close_after(request: Any, **_: object) -> None:
    request.headers["Connection"] = "close"


def opened(fleet: Fleet) -> dict[str, dict[str, int]]:
    """The messages that each process has opened since its start, by version."""
    found = {name: fleet.run_of(name)["messages"] for name in NODES}
    return {**found, "hub": fleet.status()["hub"]["messages"]}


def spoken(fleet: Fleet) -> dict[str, int]:
    """The version in which the hub and each node speak."""
    return {node["name"]: node["message_version"] for node in fleet.status()["nodes"]}


def every_node_has_a_lease(fleet: Fleet) -> bool:
    return all(fleet.run_of(name)["domains"][0]["lease_seconds"] for name in NODES)


def test_hub_and_nodes_move_to_a_newer_message_version_one_at_a_time_without_a_failed_request(
    own_fleet: Fleet,
) -> None:
    fleet, raised = own_fleet, Cli(own_fleet.data, RAISED)
    kms = fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"kept")["CiphertextBlob"]
    assert set(spoken(fleet).values()) == {1}
    with Load(fleet, key, blob) as load:
        for name in NODES:
            fleet.cli("node", "stop", name)
            raised("node", "start", name)
            fleet.until_live(5)
            fleet.lock()  # sessions between nodes of both builds
            load.until_more()
            assert load.failed == []
            if name == "node-3":  # half and half: who speaks what, in both directions
                assert set(spoken(fleet).values()) == {1}, "the hub speaks version 1 only"
                mixed = opened(fleet)
                assert all(set(mixed[old]) == {"1"} for old in ("node-4", "node-5", "hub"))
                until(
                    lambda: "2" in opened(fleet)["node-2"],
                    what="version 2 between two nodes of the new build",
                )
                kms.create_key()
        until(lambda: every_node_has_a_lease(fleet), 30, what="a lease of every node")
        hub = fleet.run_of("hub")["pid"]
        os.kill(hub, 15)
        until(lambda: fleet.status()["hub"]["state"] == "down", what="the hub's end")
        raised("up", "--detach")
        fleet.until_live(5)
        load.until_more()
        assert set(spoken(fleet).values()) == {2}
        fleet.lock()
        before = opened(fleet)

        def everyone_has_opened_more() -> bool:
            now = opened(fleet)
            assert all(now[who].get("1", 0) == before[who].get("1", 0) for who in now), (
                "version 1 is still spoken"
            )
            return all(now[who]["2"] > before[who].get("2", 0) for who in now)

        until(everyone_has_opened_more, 30, what="messages of version 2 everywhere")
    assert load.failed == []
    assert load.good > 200
    assert kms.create_key()["KeyMetadata"]["KeyId"]


def test_n66_the_plain_core_cannot_be_told_to_speak_another_version() -> None:
    name = b"QUORATE_TESTING_MESSAGE_VERSION"
    assert name not in Path(_core.__file__).read_bytes()
    (testing,) = (Path(TESTING) / "quorate").glob("_core*.so")
    assert name in testing.read_bytes()


def test_n66_a_message_of_an_unknown_version_is_dropped_by_name(own_fleet: Fleet) -> None:
    own_fleet.cli("node", "stop", "node-5")
    command = [sys.executable, "-c", OF_VERSION_3, str(own_fleet.data), "node-5"]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    wanted = "unknown_version a fleet message has version 3; this module speaks 1 to 2"
    log = own_fleet.data / "logs/hub.log"
    until(lambda: wanted in log.read_text(), what="the hub's line about version 3")
    own_fleet.start("node-5", **RAISED)
    own_fleet.until_live(5)
