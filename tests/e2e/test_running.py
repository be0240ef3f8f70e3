"""A fleet that runs: its logs, their levels, certificates that renew themselves, loops that stall."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.e2e.fleet import Fleet, until

from quorate import _core, logs
from quorate.host.certificates import Certificates

NODES = [f"node-{number}" for number in range(1, 6)]


@pytest.fixture(scope="module")
def json_fleet(own_fleet: Fleet) -> Fleet:
    """The same, told to log as JSON from now on."""
    own_fleet.cli("down")
    return own_fleet.up("--log-format", "json")


@pytest.fixture
def whole(json_fleet: Fleet) -> Iterator[Fleet]:
    yield json_fleet
    json_fleet.up()
    json_fleet.until_live(5)


def lines(fleet: Fleet, name: str) -> list[dict[str, Any]]:
    """Of a JSON log: each line must be one object."""
    text = (fleet.data / f"logs/{name}.log").read_text()
    begin = text.index('{"time"')  # after the lines of the first start, which were text
    return [json.loads(line) for line in text[begin:].splitlines()]


def directory(fleet: Fleet, name: str) -> Path:
    return fleet.data / ("hub" if name == "hub" else f"nodes/{name}")


# Logs.


def test_every_line_is_an_object_and_names_its_process(whole: Fleet) -> None:
    for name in ("hub", *NODES):
        for line in lines(whole, name):
            assert line["process"] == name
            assert line.keys() >= {"time", "level", "logger", "message"}
            assert line["time"].endswith("Z") and datetime.fromisoformat(line["time"]).tzinfo is not None
        assert any("connected" in line["message"] for line in lines(whole, name))


def test_the_clients_request_id_finds_its_error_in_a_nodes_log_and_nothing_else(whole: Fleet) -> None:
    client = whole.client()
    key = client.create_key()["KeyMetadata"]["KeyId"]
    good = client.encrypt(KeyId=key, Plaintext=b"canary-77aa", EncryptionContext={"tenant": "canary-77bb"})
    with pytest.raises(ClientError) as failure:
        client.decrypt(CiphertextBlob=good["CiphertextBlob"], EncryptionContext={"tenant": "canary-77cc"})
    seen = failure.value.response["ResponseMetadata"]["RequestId"]
    found = [line for name in NODES for line in lines(whole, name) if line.get("request_id") == seen]
    assert [line["message"] for line in found] == ["Decrypt fails: InvalidCiphertextException (400)"]
    text = "".join(path.read_text() for path in (whole.data / "logs").iterdir())
    assert good["ResponseMetadata"]["RequestId"] not in text
    assert "canary-77" not in text


def test_a_request_that_the_hub_refuses_is_found_by_its_id(whole: Fleet) -> None:
    connection = http.client.HTTPConnection("hub")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(whole.data / "hub/admin.sock"))
    connection.request("POST", "/v1/domains/nowhere/lock")
    seen = connection.getresponse().headers["x-request-id"]
    connection.close()
    (found,) = [line for line in lines(whole, "hub") if line.get("request_id") == seen]
    assert found["message"] == "POST /v1/domains/nowhere/lock: 400"


def test_a_level_is_changed_in_the_running_process_and_set_back(whole: Fleet) -> None:
    def ask() -> str:
        """Asks by twenty connections, which the kernel spreads over the nodes; the last request's id."""
        for _ in range(20):
            answer = client.list_keys()
            client.close()
        return str(answer["ResponseMetadata"]["RequestId"])

    def debug(name: str) -> list[str]:
        return [line["message"] for line in lines(whole, name) if line["level"] == "DEBUG"]

    client = whole.client()
    pids = {name: whole.run_of(name)["pid"] for name in ("hub", *NODES)}
    ask()
    whole.status()
    assert not any(debug(name) for name in ("hub", *NODES))
    assert whole.cli.json(
        "log-level", "debug", "hub", "node-1", "node-2", "node-3", "node-4"
    ) == dict.fromkeys(("hub", "node-1", "node-2", "node-3", "node-4"), "debug")
    until(lambda: ask() and "ListKeys: OK" in debug("node-1"), what="a DEBUG line")
    whole.status()
    assert "GET /v1/status: 200" in debug("hub")
    assert debug("node-5") == []  # it was not told
    assert set(whole.cli.json("log-level", "configured").values()) == {"info"}
    before = {name: len(debug(name)) for name in ("hub", *NODES)}
    ask()
    whole.status()
    assert {name: len(debug(name)) for name in ("hub", *NODES)} == before
    assert {name: whole.run_of(name)["pid"] for name in ("hub", *NODES)} == pids


def test_a_level_ends_with_its_process(whole: Fleet) -> None:
    whole.cli("log-level", "error", "node-2")
    assert whole.run_of("node-2")["log_level"] == "error"
    whole.cli("node", "stop", "node-2")
    whole.start("node-2")
    assert whole.run_of("node-2")["log_level"] == "info"


def test_settings_given_to_a_fleet_that_runs_are_kept_for_the_next_start(whole: Fleet) -> None:
    told = whole.cli("up", "--log-level", "warning").stderr
    assert "json from warning on, for each process when it starts again" in told
    assert whole.run_of("node-3")["log_level"] == "info"
    whole.cli("node", "stop", "node-3")
    whole.start("node-3")
    assert whole.run_of("node-3")["log_level"] == "warning"
    whole.cli("node", "stop", "node-3")
    whole.cli("up", "--log-level", "info", "--detach")
    assert whole.run_of("node-3")["log_level"] == "info"


def test_a_detached_nodes_log_is_rotated(whole: Fleet) -> None:
    """Near its bound before the node starts: what it logs then goes past it."""
    whole.cli("node", "stop", "node-4")
    log = whole.data / "logs/node-4.log"
    filler = {"time": "2026-01-01T00:00:00.000Z", "message": "x" * 1000}
    whole_lines = (logs.MAX_BYTES - log.stat().st_size - 300) // (len(json.dumps(filler)) + 1)
    with log.open("a") as end:
        end.write((json.dumps(filler) + "\n") * whole_lines)
        rest = logs.MAX_BYTES - 200 - end.tell()
        end.write(json.dumps({"message": "y" * (rest - 16)}) + "\n")
    size = log.stat().st_size
    assert logs.MAX_BYTES - 400 < size <= logs.MAX_BYTES
    whole.start("node-4")
    until(lambda: log.with_name("node-4.log.1").exists(), what="the rotation")
    old = log.with_name("node-4.log.1")
    assert size <= old.stat().st_size <= logs.MAX_BYTES
    json.loads(old.read_text().splitlines()[-1])
    assert log.stat().st_size < 1 << 20
    assert until(lambda: lines(whole, "node-4"))[-1]["process"] == "node-4"


# Certificates.


def leaf(fleet: Fleet, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory(fleet, name) / "tls/leaf.pem").read_bytes())


def shown(port: int) -> int | None:
    """The serial number that a new connection is shown; None when there is none, or no answer."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=1) as sock,
            trusting.wrap_socket(sock) as connection,
        ):
            der = connection.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(der).serial_number if der else None


def shown_by_kms(port: int) -> set[int | None]:
    """By all nodes that share the port: the kernel spreads connections."""
    return {shown(port) for _ in range(40)}


def shorten(fleet: Fleet, name: str, seconds: int) -> x509.Certificate:
    """Gives a process that does not run a leaf that holds for `seconds`, from its own module."""
    files = Certificates.of(directory(fleet, name))
    old = leaf(fleet, name)
    names = [
        str(each.value) for each in old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ]
    spki = old.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    module = _core.Module.open(directory(fleet, name) / "module")
    try:
        now = int(time.time())
        made = module.certify_tls(spki, names=names, not_before=now - 1, not_after=now + seconds)
    finally:
        module.close()
    chain = ssl.DER_cert_to_PEM_cert(made) + ssl.DER_cert_to_PEM_cert(files.authority.read_bytes())
    files.files.cert_chain.write_text(chain)
    return leaf(fleet, name)


@pytest.mark.parametrize("name", ["node-3", "hub"])
def test_a_running_process_renews_its_certificate_and_new_connections_see_it(name: str, whole: Fleet) -> None:
    whole.cli("down")
    short = shorten(whole, name, 18)  # due after 12 s
    assert status_of(whole, name)["certificate_expires"] == rfc3339(short)
    whole.up()
    run = whole.run_of(name)
    ports = [run["fleet_port"], *([run["enrol_port"]] if name == "hub" else [])]
    assert [shown(port) for port in ports] == [short.serial_number] * len(ports)
    kms = int(whole.env["AWS_ENDPOINT_URL_KMS"].rsplit(":", 1)[1])
    if name != "hub":
        assert short.serial_number in shown_by_kms(kms)
    fresh = until(lambda: _other(leaf(whole, name), short), seconds=40, what="the renewal")
    for port in ports:
        until(lambda port=port: shown(port) == fresh.serial_number, what="the new one on a new connection")  # type: ignore[misc]
    if name != "hub":
        assert fresh.serial_number in (seen := shown_by_kms(kms)) and short.serial_number not in seen
    assert whole.run_of(name)["pid"] == run["pid"]
    assert status_of(whole, name)["certificate_expires"] == rfc3339(fresh)
    assert (fresh.not_valid_after_utc - datetime.now(UTC)).days >= 364
    assert whole.client().list_keys()["Keys"] is not None  # by a client that verifies
    # A link that is dialled anew after the old one's end is let in with the new one.
    until(lambda: datetime.now(UTC) > short.not_valid_after_utc, seconds=40)
    other = "node-1" if name == "hub" else "hub"
    whole.kill(other)
    whole.up()
    whole.until_live(5)


def _other(now: x509.Certificate, before: x509.Certificate) -> x509.Certificate | None:
    return now if now.serial_number != before.serial_number else None


def rfc3339(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z")


def status_of(fleet: Fleet, name: str) -> dict[str, Any]:
    status = fleet.status()
    found: dict[str, Any] = (
        status["hub"] if name == "hub" else next(node for node in status["nodes"] if node["name"] == name)
    )
    return found


# The watchdog.


@pytest.mark.parametrize("name", ["node-5", "hub"])
def test_a_process_whose_loop_stalls_starts_itself_anew(name: str, whole: Fleet) -> None:
    """A pipe that nobody writes to, in the place of a file that the loop reads (hub) or writes (node), holds it for
    ever, as a hung disk would.
    """
    run, at = whole.run_of(name), directory(whole, name)
    trap, kept = (at / "fleet-info", at / "fleet-info.kept") if name == "hub" else (at / "run.json.new", None)
    if kept is not None:
        trap.rename(kept)
    os.mkfifo(trap)
    coming: subprocess.Popen[str] | None = None
    try:
        if name == "hub":
            whole.cli("node", "stop", "node-1")  # it is sent the fleet's info when it comes back
            coming = whole.cli.start("node", "start", "node-1")
        else:
            whole.kill("hub")  # run.json tells whether there is one
        until(lambda: shown(run["fleet_port"]) is None, what="the stall")
    finally:  # what is held stays held; the process that starts anew finds its files
        trap.unlink()
        if kept is not None:
            kept.rename(trap)
    line = until(lambda: _stalled(whole, name), seconds=30, what="the watchdog's line")
    assert line["level"] == "CRITICAL"
    assert "write_state" in line["exception"] if name != "hub" else "_send_roster" in line["exception"]
    until(lambda: shown(run["fleet_port"]), seconds=30, what="the process's return")
    assert whole.run_of(name)["pid"] == run["pid"]
    if coming is not None:
        coming.communicate(timeout=60)
    whole.up()
    whole.until_live(5)
    assert whole.client().list_keys()["Keys"] is not None


def _stalled(fleet: Fleet, name: str) -> dict[str, Any] | None:
    return next((line for line in lines(fleet, name) if "has not run for" in line["message"]), None)
