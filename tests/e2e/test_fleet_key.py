"""The fleet key is rotated under load, a node away and the hub killed: nobody notices, and nothing old is left."""

import subprocess
import sys
import threading
from typing import Any

from botocore.config import Config
from tests.e2e.fleet import Fleet, until

SDK = Config(retries={"mode": "standard"}, connect_timeout=2, read_timeout=5)
KEYS = 25
HELD = """
import sys
from quorate import _core
module = _core.Module.open(sys.argv[1])
state = module.fleet_key()
print(state["epoch"], state["previous"], len(state["keys_left"]), len(state["access_left"]))
"""


class Load:
    """Two clients that encrypt and decrypt under all keys, with the SDK's own retries."""

    def __init__(self, fleet: Fleet, blobs: dict[str, bytes]) -> None:
        self.good = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(fleet.client(config=SDK), blobs)) for _ in range(2)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, kms: Any, blobs: dict[str, bytes]) -> None:
        while not self._stop.is_set():
            for key, blob in blobs.items():
                try:
                    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == key.encode()
                    kms.encrypt(KeyId=key, Plaintext=b"new")
                    self.good += 1
                except Exception as why:
                    self.failed.append(repr(why))


def fleet_key(fleet: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = fleet.status()["fleet"]
    return dict(found.get("fleet_key") or {"phase": "unknown"})


def in_vault(fleet: Fleet, name: str) -> str:
    """Newest fleet epoch, the one before it, keys and access keys that are not under the newest."""
    directory = fleet.data / ("hub" if name == "hub" else f"nodes/{name}") / "module"
    command = [sys.executable, "-c", HELD, str(directory)]
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout.strip()


def test_the_fleet_key_is_rotated_under_load_with_a_node_away_and_a_killed_hub(own_fleet: Fleet) -> None:
    fleet = own_fleet
    kms = fleet.client()
    made = fleet.cli.json("access", "create", "--user", "before", "--role", "user")
    theirs = {"key": made["access_key_id"], "secret": made["secret_access_key"]}
    blobs = {}
    for _ in range(KEYS):
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        blobs[key] = kms.encrypt(KeyId=key, Plaintext=key.encode())["CiphertextBlob"]
    fleet.kill("node-5")
    with Load(fleet, blobs) as load:
        until(lambda: load.good > 20, what="answers before the rotation")
        begun = fleet.cli.json("fleet", "rotate-key", "--window", "5s", "--no-wait")
        assert begun["epoch"] == 2
        fleet.kill("hub")
        hub = fleet.cli.start("hub", "serve", "--log", str(fleet.data / "logs/hub.log"))
        until(lambda: fleet_key(fleet)["phase"] == "retiring", 60, what="the end of the window")
        absent = {"phase": "retiring", "waits_for": ["node-5"], "away": ["node-5"], "renewed": KEYS}
        until(
            lambda: absent.items() <= fleet_key(fleet).items(), 30, what="all but node-5 without the old key"
        )
        refused = fleet.cli("fleet", "rotate-key", fails=1).stderr
        assert "waits for node-5" in refused
        fleet.start("node-5")
        until(lambda: fleet_key(fleet)["phase"] == "done", 30, what="node-5 without the old key")
        fleet.until_live(5)
        fleet.lock()
        before = load.good
        until(lambda: load.good > before + 20, what="answers after the rotation")
    assert load.failed == []
    assert fleet.client(**theirs).decrypt(CiphertextBlob=next(iter(blobs.values())))["Plaintext"]

    fleet.cli("node", "add")
    log = fleet.data / "nodes/node-6/audit.log"

    def asked_node_6() -> bool:
        """A new connection each time: the kernel gives one of them to node-6 soon."""
        client = fleet.client(**theirs, config=SDK)
        assert client.decrypt(CiphertextBlob=next(iter(blobs.values())))["Plaintext"]
        lines = [line for line in log.read_text().splitlines() if made["access_key_id"] in line]
        return any('"outcome":"OK"' in line or '"outcome":"Forwarded"' in line for line in lines)

    until(asked_node_6, 60, what="a request of an older access key to the new node")
    fleet.cli("down")
    hub.communicate(timeout=20)
    for name in ("hub", *(f"node-{n}" for n in range(1, 7))):
        assert in_vault(fleet, name) == "2 None 0 0", name
