"""Damaged, foreign and busy things on one machine: each gets its own clear error, and loses nothing."""

import json
import re
import socket
from pathlib import Path

import pytest
from tests.e2e.fleet import Cli, Fleet, until


def test_a_port_in_use_is_named_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = Cli(tmp_path / "data")("up", "--detach", "--port", port, fails=1)
    assert port in refused.stderr
    assert "remedy" in refused.stderr
    assert not (tmp_path / "data" / "hub").exists()


@pytest.fixture
def whole(own_fleet: Fleet) -> Fleet:
    own_fleet.until_live(5)
    return own_fleet


def test_another_format_is_refused_and_left_as_it_is(whole: Fleet) -> None:
    path = whole.data / "nodes/node-2/settings.json"
    before = path.read_bytes()
    whole.cli("node", "stop", "node-2")
    changed = json.loads(before) | {"format": 99}
    path.write_text(json.dumps(changed))
    refused = whole.cli("node", "serve", "node-2", fails=1)
    assert "format 99" in refused.stderr
    assert json.loads(path.read_text()) == changed
    path.write_bytes(before)
    whole.start("node-2")
    whole.until_live(5)


def test_a_vault_in_use_is_not_opened_twice(whole: Fleet) -> None:
    refused = whole.cli("node", "serve", "node-1", fails=1)
    assert "another process has the vault in" in refused.stderr
    assert "remedy" in refused.stderr
    assert whole.status()["hub"]["state"] == "ready"


def test_a_corrupt_vault_keeps_its_node_down_and_the_others_serve(whole: Fleet) -> None:
    kms = whole.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    whole.cli("node", "stop", "node-3")
    vault = whole.data / "nodes/node-3/module/vault.redb"
    sound = vault.read_bytes()
    damaged = bytearray(sound)
    for at in range(4096, len(damaged), 512):
        damaged[at] ^= 0xFF
    vault.write_bytes(damaged)
    refused = whole.cli("node", "serve", "node-3", fails=1)
    assert "vault.redb" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert bytes(vault.read_bytes()) == bytes(damaged), "the file is left for who repairs it"
    whole.lock()
    until(lambda: kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x", what="Decrypt by the others")
    vault.write_bytes(sound)
    whole.start("node-3")
    whole.until_live(5)


def test_an_unreadable_root_key_is_named(whole: Fleet) -> None:
    whole.cli("node", "stop", "node-4")
    key = whole.data / "nodes/node-4/module/root.key"
    key.chmod(0o644)
    refused = whole.cli("node", "serve", "node-4", fails=1)
    assert "root.key" in refused.stderr
    key.chmod(0o600)
    sound = key.read_bytes()
    key.write_bytes(bytes(32))
    wrong = whole.cli("node", "serve", "node-4", fails=1)
    assert "Traceback" not in wrong.stderr
    key.write_bytes(sound)
    whole.start("node-4")
    whole.until_live(5)


def test_a_changed_audit_log_is_found_at_the_next_start(whole: Fleet) -> None:
    whole.cli("node", "stop", "node-5")
    log = whole.data / "nodes/node-5/audit.log"
    sound = log.read_bytes()
    log.write_bytes(re.sub(rb'"seq":(\d+)(?=[^\n]*\n$)', rb'"seq":9\1', sound))
    refused = whole.cli("node", "serve", "node-5", fails=1)
    assert "audit.log" in refused.stderr
    log.write_bytes(sound)
    whole.start("node-5")
    whole.until_live(5)


def test_another_fleets_node_gets_no_link(whole: Fleet, fleet: Fleet) -> None:
    """A node of fleet A that is pointed at fleet B's hub is turned away, and goes on asking."""
    assert whole.status()["fleet"]["id"] != fleet.status()["fleet"]["id"]
    mixed = whole.data / "hub/fleet-info"
    assert mixed.read_bytes() != (fleet.data / "hub/fleet-info").read_bytes()
    whole.cli("node", "stop", "node-2")
    info = whole.data / "nodes/node-2/fleet-info"
    sound = info.read_bytes()
    info.write_bytes((fleet.data / "nodes/node-2/fleet-info").read_bytes())
    refused = whole.cli("node", "serve", "node-2", fails=1)
    assert "Traceback" not in refused.stderr
    assert refused.stderr.strip()
    info.write_bytes(sound)
    whole.start("node-2")
    whole.until_live(5)
