"""A node that is started from an older copy of its directory, as a careless restore does (attack N89)."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.e2e.fleet import Fleet, ask_hub, until


def until_settled(fleet: Fleet) -> dict[str, Any]:
    def settled() -> dict[str, Any] | None:
        (shown,) = status(fleet)["domains"]
        return shown if not shown["waits_for"] and not shown["earlier"] and not shown["lagging"] else None

    return until(settled, what="default settled")


def status(fleet: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = ask_hub(fleet.data / "hub/admin.sock", "GET", "/v1/status")
    return found


def node(fleet: Fleet, name: str) -> dict[str, Any]:
    return next(node for node in status(fleet)["nodes"] if node["name"] == name)


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


def test_n89_node_on_an_older_copy_is_quarantined_and_repaired_into_a_new_epoch(own_fleet: Fleet) -> None:
    here = own_fleet.data / "nodes/node-2"
    copy = own_fleet.data / "copy-of-node-2"
    kms = own_fleet.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"kept")["CiphertextBlob"]

    own_fleet.cli("node", "stop", "node-2")
    shutil.copytree(here, copy)
    own_fleet.cli("node", "start", "node-2")
    own_fleet.until_live(5)
    own_fleet.cli("domain", "refresh", "default")
    assert until_settled(own_fleet)["epoch"] == 2
    for _ in range(3):
        own_fleet.lock()
        kms.decrypt(CiphertextBlob=blob)

    own_fleet.cli("node", "stop", "node-2")
    shutil.rmtree(here)
    copy.rename(here)
    before = len(events(here / "audit.log"))
    starting = own_fleet.cli.start("node", "start", "node-2")
    shown = until(
        lambda: (said := node(own_fleet, "node-2"))["state"] == "quarantined" and said, what="quarantine"
    )
    assert "older copy" in shown["reason"]
    own_fleet.lock()
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"kept", "clients do not notice"

    until(lambda: node(own_fleet, "node-2")["state"] == "ready", what="node-2 serves again")
    starting.communicate(timeout=30)
    assert starting.returncode == 0
    assert node(own_fleet, "node-2")["reason"] is None
    repaired = until_settled(own_fleet)
    assert (repaired["epoch"], repaired["live"], repaired["erasure_debt"]) == (3, 5, 0)
    own_fleet.lock()
    for _ in range(5):
        own_fleet.lock()
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"kept"

    since = events(here / "audit.log")[before:]
    kinds = [event["event"] for event in since]
    assert kinds[:2] == ["started", "rolled_back"]
    assert [event["epoch"] for event in since if event["event"] == "released" and event["epoch"] < 3] == []
    hub = events(own_fleet.data / "hub/audit.log")
    (line,) = [event for event in hub if event["event"] == "quarantined"]
    assert line["node"] == "node-2" and "older copy" in line["reason"]
    called = [
        event for event in hub[hub.index(line) :]
        if event["event"] == "granted" and any(shard.endswith(":node-2") for shard in event["called"])
    ]  # fmt: skip
    last = max(
        i for i, event in enumerate(hub) if event["event"] == "epoch" and event["phase"] == "committed"
    )
    assert all(hub.index(event) > last for event in called), "no quorum before the new epoch calls it"
    own_fleet.cli("audit", "verify")
