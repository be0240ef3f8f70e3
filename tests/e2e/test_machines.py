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
    """The operator's directory, the hub's machine, and one machine for each node."""

    def __init__(self, where: Path) -> None:
        self.operator = where / "usb"
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
    hub, key = machines.hub, ["--operator", str(machines.operator)]
    hub("operator", "init", *key)
    hub("hub", "init", *key, "--fleet-listen", "127.0.0.1:0", "--enrol-listen", "127.0.0.1:0")
    assert not (hub.data / "operator").exists(), "the hub's machine keeps no operator key"
    run = machines.serve(hub, hub.data / "hub/run.json", "hub", "serve")
    assert run["enrol_port"]

    kms_port = 0
    for zone, (name, cli) in enumerate(machines.nodes.items()):
        print_ = re.findall(r"[0-9a-f]{64}", cli("node", "init", name).stdout)[0]
        words = ["node", "invite", name, *key, "--zone", f"rack-{zone}", "--fingerprint", print_]
        invitation = re.findall(r"quorate-invitation-1\.[0-9a-f]+", hub(*words).stdout)[0]
        listen = ["--fleet-listen", "127.0.0.1:0", "--kms-listen", f"127.0.0.1:{kms_port}"]
        enrolling = cli.start("node", "enroll", name, "--invitation", invitation, *listen)
        approve = ["node", "approve", name, *key, "--fingerprint", print_]
        until(partial(hub.works, *approve), 20, what=f"{name} asking for its place")
        out, err = enrolling.communicate(timeout=30)
        assert enrolling.returncode == 0, out + err
        state = machines.serve(cli, cli.data / "nodes" / name / "run.json", "node", "serve", name)
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


def test_n64_an_invitation_serves_one_module_once(machines: Machines) -> None:
    """Its token is bound to a fingerprint; another module's request with it is refused."""
    hub, key = machines.hub, ["--operator", str(machines.operator)]
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
        refused = machines.hub("hub", "init", *rival, *listen, fails=1)
    assert "Traceback" not in refused.stderr
    assert "open; stop it first" not in refused.stderr
    assert "fleet" in refused.stderr or "operator" in refused.stderr, refused.stderr
