"""A fleet brought up by the commands of several machines alone, each with a data directory of its own."""

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from tests.e2e.fleet import ONCE, Cli, until

NODES = ("alpha", "beta", "gamma", "delta")


class Machines:
    """The operator's directory, the hub's machine, and one machine for each node.

    The operator key, the hub's module and alpha's are sealed under a passphrase, the others by key files.
    """

    def __init__(self, where: Path) -> None:
        self.passphrase = where / "passphrase"
        self.passphrase.write_text("correct horse battery staple\n")
        self.operator = where / "usb"
        self.key = ["--operator", str(self.operator), "--operator-passphrase", str(self.passphrase)]
        self.hub = Cli(where / "hub-machine")
        self.nodes = {name: Cli(where / f"{name}-machine") for name in NODES}
        self.serving: list[subprocess.Popen[str]] = []

    def serve(self, cli: Cli, run: Path, *words: str) -> dict[str, Any]:
        """Starts a service and waits until its `run.json` says that it is ready."""
        process = cli.start(*words)
        self.serving.append(process)

        def ready() -> dict[str, Any] | None:
            if process.poll() is not None:
                pytest.fail(f"{words}: {process.communicate()}")
            try:
                state: dict[str, Any] = json.loads(run.read_text())
            except (OSError, ValueError):
                return None
            return state if state["state"] == "ready" else None

        return until(ready, 30, what=f"{words} being ready")

    def root(self, name: str) -> list[str]:
        return ["--passphrase", str(self.passphrase)] if name in ("hub", "alpha") else []

    def stop(self) -> None:
        for process in self.serving:
            process.send_signal(signal.SIGTERM)
        for process in self.serving:
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        made = Machines(Path(where))
        try:
            yield made
        finally:
            made.stop()


def test_several_machines_make_a_fleet_that_serves(machines: Machines) -> None:
    hub, key = machines.hub, machines.key
    hub("operator", "init", *key)
    listen = ["--fleet-listen", "127.0.0.1:0", "--enrol-listen", "127.0.0.1:0"]
    hub("hub", "init", *key, *machines.root("hub"), *listen)
    assert not (hub.data / "operator").exists(), "the hub's machine keeps no operator key"
    run = machines.serve(hub, hub.data / "hub/run.json", "hub", "serve", *machines.root("hub"))
    assert run["enrol_port"]

    kms_port = 0
    for zone, (name, cli) in enumerate(machines.nodes.items()):
        root = machines.root(name)
        print_ = re.findall(r"[0-9a-f]{64}", cli("node", "init", name, *root).stdout)[0]
        words = ["node", "invite", name, *key, "--zone", f"rack-{zone}", "--fingerprint", print_]
        invitation = re.findall(r"quorate-invitation-1\.[0-9a-f]+", hub(*words).stdout)[0]
        listen = ["--fleet-listen", "127.0.0.1:0", "--kms-listen", f"127.0.0.1:{kms_port}"]
        enrolling = cli.start("node", "enroll", name, "--invitation", invitation, *listen, *root)
        approve = ["node", "approve", name, *key, "--fingerprint", print_]
        until(partial(hub.works, *approve), 20, what=f"{name} asking for its place")
        out, err = enrolling.communicate(timeout=30)
        assert enrolling.returncode == 0, out + err
        state = machines.serve(cli, cli.data / "nodes" / name / "run.json", "node", "serve", name, *root)
        kms_port = int(state["kms"].rpartition(":")[2])

    made = hub.json("domain", "create", "default", *key, "--threshold", "3")
    assert (made["threshold"], made["shards"]) == (3, 4)
    pair = hub.json("access", "create", *key, "--user", "root", "--role", "admin")
    client = boto3.client(
        "kms",
        endpoint_url=f"https://localhost:{kms_port}",
        region_name="us-east-1",
        aws_access_key_id=pair["access_key_id"],
        aws_secret_access_key=pair["secret_access_key"],
        verify=str(machines.nodes["alpha"].data / "nodes/alpha/tls/roots.pem"),
        config=ONCE,
    )
    key_id = client.create_key()["KeyMetadata"]["KeyId"]
    blob = client.encrypt(KeyId=key_id, Plaintext=b"over machines")["CiphertextBlob"]
    assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"over machines"


def test_a_wrong_passphrase_is_named_and_changes_nothing(machines: Machines, tmp_path: Path) -> None:
    wrong, empty = tmp_path / "wrong", tmp_path / "empty"
    wrong.write_text("correct horse battery stable\n")
    empty.write_text("\n")
    words = ["access", "create", "--user", "eve", "--operator", str(machines.operator)]
    for given, said in (
        (["--operator-passphrase", str(wrong)], "the passphrase does not open the vault"),
        (["--operator-passphrase", str(empty)], "is empty"),
        (["--operator-passphrase", str(tmp_path / "none")], "No such file"),
        ([], "needs its passphrase"),
    ):
        refused = machines.hub(*words, *given, fails=1)
        assert said in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    assert [one["user"] for one in machines.hub.json("access", "list")] == ["root"]


def test_n64_an_invitation_serves_one_module_once(machines: Machines) -> None:
    """Its token is bound to a fingerprint; another module's request with it is refused."""
    hub, key = machines.hub, machines.key
    stranger = Cli(machines.nodes["alpha"].data.parent / "stranger")
    stranger("node", "init", "epsilon")
    words = ["node", "invite", "epsilon", *key, "--fingerprint", "ab" * 32]
    invitation = re.findall(r"quorate-invitation-1\.[0-9a-f]+", hub(*words).stdout)[0]
    listen = ["--fleet-listen", "127.0.0.1:0", "--kms-listen", "127.0.0.1:0"]
    refused = stranger("node", "enroll", "epsilon", "--invitation", invitation, *listen, fails=1)
    assert "refuses to enrol epsilon" in refused.stderr
    assert all(node["name"] != "epsilon" for node in hub.json("status")["nodes"] if node.get("live"))


def test_a_hub_of_one_fleet_refuses_the_operator_of_another(machines: Machines) -> None:
    """The last one here: it stops the hub, whose module is pinned to its own operator for good."""
    hub = machines.serving[0]
    hub.send_signal(signal.SIGTERM)
    hub.communicate(timeout=20)
    machines.serving.remove(hub)
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        rival = ["--operator", str(Path(where) / "rival-operator")]
        Cli(Path(where) / "other")("operator", "init", *rival)
        listen = ["--fleet-listen", "127.0.0.1:0", "--enrol-listen", "127.0.0.1:0"]
        refused = machines.hub("hub", "init", *rival, *machines.root("hub"), *listen, fails=1)
    assert "Traceback" not in refused.stderr
    assert "open; stop it first" not in refused.stderr
    assert "fleet" in refused.stderr or "operator" in refused.stderr, refused.stderr
