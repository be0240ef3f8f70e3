"""What every process writes down, and what none of them does."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.e2e.fleet import Cli, Fleet, code_of, until

CANARY = b"canary-9f1c-in-the-clear"


@pytest.fixture(scope="module")
def used(own_fleet: Fleet) -> dict[str, Any]:
    """A fleet that has served every kind of secret; returns those that left it by the front door."""
    kms = own_fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=CANARY, EncryptionContext={"tenant": "canary-context"})
    own_fleet.lock()
    kms.decrypt(CiphertextBlob=blob["CiphertextBlob"], EncryptionContext={"tenant": "canary-context"})
    data_key = kms.generate_data_key(KeyId=key, KeySpec="AES_256")["Plaintext"]
    with pytest.raises(ClientError):
        kms.decrypt(CiphertextBlob=blob["CiphertextBlob"], EncryptionContext={"tenant": "wrong"})
    pair = own_fleet.cli.json("access", "create", "--user", "canary")
    return {
        "key": key,
        "secrets": [CANARY, data_key, pair["secret_access_key"].encode(), b"canary-context"],
    }


def lines(fleet: Fleet) -> list[dict[str, Any]]:
    found = []
    for log in [fleet.data / "hub/audit.log", *fleet.data.glob("nodes/*/audit.log")]:
        found += [json.loads(line) for line in log.read_text().splitlines()]
    return found


def test_every_session_grant_release_and_call_has_its_line(own_fleet: Fleet, used: dict[str, Any]) -> None:
    events = [line["event"] for line in lines(own_fleet)]
    session = next(s["session"] for s in own_fleet.sessions() if s["outcome"] == "combined")
    of_session = [event for event in events if event.get("session") == session]
    assert sorted(event["event"] for event in of_session) == [
        "granted",
        "released",
        "released",
        "released",
        "session",
        "session",
    ]
    calls = {event["operation"]: event for event in events if event["event"] == "kms" and "outcome" in event}
    assert {"CreateKey", "Encrypt", "Decrypt", "GenerateDataKey"} <= calls.keys()
    assert calls["Encrypt"]["key_id"] == used["key"]
    assert calls["Encrypt"]["domain"] == "default"
    assert calls["Encrypt"]["name"] == "admin"
    refused = [e for e in events if e.get("outcome") == "InvalidCiphertextException"]
    assert len(refused) == 1


def test_every_log_verifies(own_fleet: Fleet, used: dict[str, Any]) -> None:
    reports = own_fleet.cli.json("audit", "verify")
    assert len(reports) == 6
    assert all(report["breach"] is None and report["lines"] > 0 for report in reports)


def test_n85_no_secret_is_in_any_file_of_the_fleet(own_fleet: Fleet, used: dict[str, Any]) -> None:
    """Logs, audit logs, run files, databases and vaults; the credentials file holds the one it must."""
    files = [path for path in own_fleet.data.rglob("*") if path.is_file()]
    assert len(files) > 40
    for secret in used["secrets"]:
        holding = [str(path) for path in files if secret in path.read_bytes()]
        assert holding == []


def test_n86_no_process_of_the_fleet_can_be_dumped(own_fleet: Fleet) -> None:
    for name in ("hub", "node-1"):
        pid = own_fleet.run_of(name)["pid"]
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
        # What is not dumpable belongs to root, whoever runs it.
        assert Path(f"/proc/{pid}/maps").stat().st_uid == 0


def test_n84_a_node_that_cannot_write_its_audit_log_refuses_and_stops(own_fleet: Fleet) -> None:
    """A limit on the size of files stands for a full disk: writes beyond it fail, whoever writes."""
    kms_url = own_fleet.env["AWS_ENDPOINT_URL_KMS"]
    names = [node["name"] for node in own_fleet.status()["nodes"]]
    for name in names[1:]:
        own_fleet.cli("node", "stop", name)
    kms = own_fleet.client(url=kms_url)
    assert kms.list_keys()["Keys"]
    run = own_fleet.run_of("node-1")
    log = own_fleet.data / "nodes/node-1/audit.log"
    before = log.read_bytes()
    resource.prlimit(run["pid"], resource.RLIMIT_FSIZE, (len(before), len(before)))
    with pytest.raises(ClientError) as failure:
        kms.list_keys()
    assert code_of(failure) == "KMSInternalException"
    until(lambda: own_fleet.status()["nodes"][0]["pid"] is None, what="the node's end")
    assert log.read_bytes() == before
    assert "stopping" in (own_fleet.data / "logs/node-1.log").read_text()
    Cli(own_fleet.data)("up", "--detach")
    own_fleet.until_live(5)
    assert kms.list_keys()["Keys"]
