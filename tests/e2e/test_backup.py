"""A backup of the hub's database, taken while clients work, put back after its loss; nodes run on all the while."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, until


@contextmanager
def working(fleet: Fleet, key: str) -> Iterator[list[int]]:
    """A client that encrypts and decrypts all the time, without retries; counts, and raises what it saw."""
    done, failures, stop = [0], list[Exception](), threading.Event()
    kms = fleet.client()

    def work() -> None:
        while not stop.is_set():
            try:
                blob = kms.encrypt(KeyId=key, Plaintext=b"at work")["CiphertextBlob"]
                assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"at work"
            except Exception as why:
                failures.append(why)
            done[0] += 1

    client = threading.Thread(target=work)
    client.start()
    try:
        yield done
    finally:
        stop.set()
        client.join()
    assert not failures


def database(fleet: Fleet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (fleet.data / "hub").glob("hub.db*")}


@pytest.fixture(scope="module")
def backup(own_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup that was taken under load; the fleet has a key made before it."""
    where = tmp_path_factory.mktemp("backups")
    kms = own_fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    with working(own_fleet, key) as done:
        for number in range(3):
            before = done[0]
            own_fleet.cli("hub", "backup", str(where / f"{number}.backup"))
            own_fleet.lock()  # a fresh quorum: the hub works too
            until(lambda before=before: done[0] > before, what="work beside the backup")
    return where / "2.backup"


def test_a_restore_is_refused_while_the_hub_runs(own_fleet: Fleet, backup: Path) -> None:
    before = database(own_fleet)
    refused = own_fleet.cli("hub", "restore", str(backup), fails=1)
    assert "runs" in refused.stderr and "quorate down" in refused.stderr
    assert database(own_fleet)["hub.db"] == before["hub.db"]
    assert own_fleet.status()["hub"]["state"] == "ready"


def test_a_lost_database_comes_back_and_what_is_newer_than_the_backup_with_it(
    own_fleet: Fleet, backup: Path, tmp_path: Path
) -> None:
    kms = own_fleet.client()
    old = kms.list_keys()["Keys"][0]["KeyId"]
    old_blob = kms.encrypt(KeyId=old, Plaintext=b"old")["CiphertextBlob"]
    # After the backup: a key, an alias, a change of the old key, a domain with a key of its own.
    new = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/new", TargetKeyId=new)
    kms.disable_key(KeyId=old)
    kms.enable_key(KeyId=old)
    own_fleet.cli("domain", "create", "later", "--threshold", "2", "--shards", "3")
    in_later = kms.create_key(Tags=[{"TagKey": "quorate:domain", "TagValue": "later"}])["KeyMetadata"][
        "KeyId"
    ]
    blobs = {
        name: kms.encrypt(KeyId=key, Plaintext=name.encode())["CiphertextBlob"]
        for name, key in (("new", new), ("later", in_later))
    }

    own_fleet.kill("hub")
    lost = own_fleet.data / "hub/hub.db"
    lost.write_bytes(b"\xff" * 8192)
    refused = own_fleet.cli("hub", "serve", fails=1)
    assert "hub restore" in refused.stderr and "Traceback" not in refused.stderr

    altered = tmp_path / "altered.backup"
    shutil.copy(backup, altered)
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    before = database(own_fleet)
    refused = own_fleet.cli("hub", "restore", str(altered), fails=1)
    assert "altered" in refused.stderr
    assert database(own_fleet) == before

    restored = own_fleet.cli.json("hub", "restore", str(backup))
    assert (Path(restored["kept"]) / "hub.db").read_bytes() == before["hub.db"]
    own_fleet.up()
    own_fleet.until_live(5)
    own_fleet.until_live(3, "later")
    for domain in ("default", "later"):
        own_fleet.lock(domain)

    kms = own_fleet.client()
    assert kms.decrypt(CiphertextBlob=old_blob)["Plaintext"] == b"old"
    for name, blob in blobs.items():
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == name.encode()
    listed = {key["KeyId"] for key in kms.list_keys()["Keys"]}
    assert {old, new, in_later} <= listed
    assert {"alias/new": new}.items() <= {
        alias["AliasName"]: alias.get("TargetKeyId") for alias in kms.list_aliases()["Aliases"]
    }.items()

    made = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=made, Plaintext=b"made since")["CiphertextBlob"]
    for _ in range(12):  # each on a connection of its own, so by whichever node of the five takes it
        assert own_fleet.client().decrypt(CiphertextBlob=blob)["Plaintext"] == b"made since"
    kms.disable_key(KeyId=old)
    assert kms.describe_key(KeyId=old)["KeyMetadata"]["KeyState"] == "Disabled"
    own_fleet.cli("domain", "create", "latest", "--threshold", "2", "--shards", "3")


def test_without_its_database_the_hub_does_not_start_and_an_empty_one_is_filled_by_module_and_nodes(
    own_fleet: Fleet, backup: Path
) -> None:
    """What docs/operations.md says of a database that is lost without a backup."""
    kms = own_fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"kept")["CiphertextBlob"]
    own_fleet.kill("hub")
    for path in (own_fleet.data / "hub").glob("hub.db*"):
        path.unlink()
    refused = own_fleet.cli("hub", "serve", fails=1)
    assert "hub.db is missing" in refused.stderr and "hub restore" in refused.stderr
    assert not (own_fleet.data / "hub/hub.db").exists()

    (own_fleet.data / "hub/hub.db").touch(mode=0o600)
    own_fleet.up()
    own_fleet.until_live(5)
    own_fleet.lock()
    assert own_fleet.client().decrypt(CiphertextBlob=blob)["Plaintext"] == b"kept"
    made = own_fleet.client().create_key()["KeyMetadata"]["KeyId"]
    for _ in range(8):
        assert own_fleet.client().describe_key(KeyId=made)["KeyMetadata"]["KeyId"] == made
