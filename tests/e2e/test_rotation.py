"""A domain's key is rotated under a running fleet: nobody notices, old ciphertexts open, the old key is gone."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import load
from tests.e2e.fleet import Fleet, ask_hub, until

CONTEXT = {"tenant": "17"}
KEYS = 60


def shown(fleet: Fleet, name: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.cli.json("domain", "show", name)
    return found


def rewrapped(fleet: Fleet, name: str) -> int:
    """Asked without a process of its own, which would come too late."""
    domains = ask_hub(fleet.data / "hub/admin.sock", "GET", "/v1/status")["domains"]
    found = next(each for each in domains if each["name"] == name)["rotation"]
    return 0 if found is None else int(found["rewrapped"])


def new_keys(kms: Any, domain: str) -> list[str]:
    tags = [{"TagKey": "quorate:domain", "TagValue": domain}]
    return [kms.create_key(Tags=tags)["KeyMetadata"]["KeyId"] for _ in range(KEYS)]


class Load:
    """Checked calls of a domain's keys, over and over, beside what a test does."""

    def __init__(self, fleet: Fleet, domain: str) -> None:
        env = fleet.env
        self._endpoint = load.Endpoint(
            env["AWS_ENDPOINT_URL_KMS"],
            env["AWS_ACCESS_KEY_ID"],
            env["AWS_SECRET_ACCESS_KEY"],
            Path(env["AWS_CA_BUNDLE"]),
        )
        self._operations = load.three(self._endpoint, domain)
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.calls = 0
        self.wrong: list[str] = []

    async def _run(self) -> None:
        while not self._over.is_set():
            measured = await load.run(self._endpoint, self._operations, connections=4, seconds=1)
            self.calls += len(measured.seconds)
            self.wrong += measured.wrong

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_key_is_rotated_twice_under_load_and_the_hub_killed_in_the_middle(own_fleet: Fleet) -> None:
    own_fleet.cli("domain", "create", "turn", "--lease-seconds", "300", "--lease-uses", "1000000")
    kms = own_fleet.client()
    keys = new_keys(kms, "turn")
    blobs = [
        kms.encrypt(KeyId=key, Plaintext=key.encode(), EncryptionContext=CONTEXT)["CiphertextBlob"]
        for key in keys
    ]
    kms.disable_key(KeyId=keys[-1])

    def all_open() -> None:
        for key, blob in zip(keys[:-1], blobs, strict=False):
            opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)
            assert (opened["KeyId"].rpartition("/")[2], opened["Plaintext"]) == (key, key.encode())

    with Load(own_fleet, "turn") as clients:
        until(lambda: clients.calls, what="load")
        rotating = own_fleet.cli.start("domain", "rotate-key", "turn", "--json")
        until(lambda: 0 < rewrapped(own_fleet, "turn") < KEYS, what="the middle of the re-wrapping")
        own_fleet.kill("hub")
        left = clients.calls
        until(lambda: clients.calls > left, what="calls without the hub")
        own_fleet.up()
        out, err = rotating.communicate(timeout=60)
        assert rotating.returncode == 0, err
        assert "key version 2 is shared" in err
        assert '"key_version": 2' in out
        # Under version 2 alone now; and once more, with no wait.
        all_open()
        begun = own_fleet.cli.json("domain", "rotate-key", "turn", "--no-wait")
        assert (begun["key_version"], begun["rotation"]["to"]) == (3, 3)
        refused = own_fleet.cli("domain", "rotate-key", "turn", fails=1).stderr
        assert "a rotation of turn's key is under way" in refused
        until(
            lambda: shown(own_fleet, "turn")["rotation"] is None, seconds=60, what="the second rotation's end"
        )
    assert clients.wrong == []
    found = shown(own_fleet, "turn")
    assert (found["name"], found["key_version"], found["epoch"], found["live"]) == ("turn", 3, 1, 5)
    assert found["erasure_debt"] == 0
    assert [each["name"] for each in own_fleet.status()["domains"]] == ["default", "turn"]
    own_fleet.lock("turn")
    all_open()
    kms.enable_key(KeyId=keys[-1])
    last = kms.decrypt(CiphertextBlob=blobs[-1], EncryptionContext=CONTEXT)
    assert last["Plaintext"] == keys[-1].encode(), "a disabled key is wrapped anew too"


def test_a_member_that_is_away_is_waited_for(own_fleet: Fleet) -> None:
    own_fleet.cli("domain", "create", "apart")
    kms = own_fleet.client()
    keys = new_keys(kms, "apart")
    blob = kms.encrypt(KeyId=keys[0], Plaintext=b"kept", EncryptionContext=CONTEXT)["CiphertextBlob"]
    own_fleet.kill("node-5")
    refused = own_fleet.cli("domain", "rotate-key", "apart", fails=1).stderr
    assert "node-5 cannot be reached" in refused
    found = shown(own_fleet, "apart")
    assert (found["key_version"], found["rotation"]) == (1, None)
    own_fleet.start("node-5")
    own_fleet.until_live(5, "apart")
    rotating = own_fleet.cli.start("domain", "rotate-key", "apart")
    until(lambda: 0 < rewrapped(own_fleet, "apart") < KEYS, what="the middle of the re-wrapping")
    own_fleet.kill("node-4")
    until(
        lambda: (found := shown(own_fleet, "apart")["rotation"]) and found["waits_for"] == ["node-4"],
        seconds=30,
        what="the rotation waits for node-4",
    )
    assert shown(own_fleet, "apart")["rotation"]["phase"] == "checking", "nothing is dropped meanwhile"
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] == b"kept"
    own_fleet.start("node-4")
    out, err = rotating.communicate(timeout=60)
    assert rotating.returncode == 0, err
    assert "the one before is erased" in out
    own_fleet.lock("apart")
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] == b"kept"


def test_a_key_is_rotated_on_time(own_fleet: Fleet) -> None:
    own_fleet.cli("domain", "create", "brisk", "--threshold", "2", "--shards", "3", "--rotate-every", "1s")
    until(lambda: shown(own_fleet, "brisk")["key_version"] >= 3, seconds=40, what="two rotations")
    own_fleet.cli("domain", "set", "brisk", "--rotate-every", "0")
    until(lambda: shown(own_fleet, "brisk")["rotation"] is None, what="the last one's end")
    assert shown(own_fleet, "brisk")["next_rotation"] is None
