"""Data directories of earlier builds, kept as they were left, under this build (tests/data/upgrade)."""

import json
import socket
import subprocess
import sys
import tarfile
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from tests.e2e.fleet import Fleet, code_of, until

KEPT = sorted((Path(__file__).parents[1] / "data/upgrade").glob("*.tar.xz"))


@pytest.fixture(params=KEPT, ids=lambda path: path.name.removesuffix(".tar.xz"))
def kept(request: pytest.FixtureRequest) -> Iterator[tuple[Fleet, dict[str, Any]]]:
    """A kept directory in another place, and what its clients had; what is started is stopped."""
    with tempfile.TemporaryDirectory(prefix="quorate-") as where:
        # Like `tar -xp`, but for owners; a release from before this argument does that anyway.
        safe: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
        with tarfile.open(request.param) as archive:
            archive.extractall(where, **safe)
        fleet = Fleet(Path(where) / "data")
        try:
            yield fleet, json.loads((Path(where) / "expected.json").read_text())
        finally:
            fleet.down()


def ports(data: Path) -> set[int]:
    """Those that the directory's fleet listens on; they stand in its signed roster, so it cannot take others."""
    found = {json.loads((data / "fleet.json").read_text())["port"]}
    for path in data.glob("**/settings.json"):
        settings = json.loads(path.read_text())
        found |= {
            int(value.rpartition(":")[2]) for name, value in settings.items() if name.endswith("listen")
        }
    return found


def all_free(wanted: set[int]) -> bool:
    for port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def certificates(data: Path, name: str) -> list[x509.Certificate]:
    return [
        certificate
        for path in data.glob(f"**/tls/{name}")
        for certificate in x509.load_pem_x509_certificates(path.read_bytes())
    ]


def expire(directory: Path) -> None:
    """Gives the hub or node in `directory` a leaf that its module certified for one past hour."""
    program = """
import ssl, sys, time
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from quorate import _core
directory = Path(sys.argv[1])
path = directory / "tls/leaf.pem"
leaf = x509.load_pem_x509_certificate(path.read_bytes())
spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
module = _core.Module.open(directory / "module")
ended = int(time.time()) - 3600
old = module.certify_tls(spki, names=["localhost", "127.0.0.1"], not_before=ended - 3600, not_after=ended)
module.close()
authority = (directory / "tls/ca.der").read_bytes()
path.write_text(ssl.DER_cert_to_PEM_cert(old) + ssl.DER_cert_to_PEM_cert(authority))
"""
    subprocess.run([sys.executable, "-c", program, str(directory)], check=True)


def up(fleet: Fleet) -> None:
    wanted = ports(fleet.data)
    until(
        lambda: all_free(wanted), 60, what=f"the ports {sorted(wanted)}"
    )  # another run of this test has them
    fleet.up()


def test_there_is_one_of_the_first_format() -> None:
    assert "issue-2.tar.xz" in {path.name for path in KEPT}


def test_a_kept_directory_serves_under_this_build(kept: tuple[Fleet, dict[str, Any]]) -> None:
    fleet, expected = kept
    now = datetime.now(UTC)
    up(fleet)
    status = fleet.status()
    assert status["fleet"]["id"] == expected["fleet"]
    assert [(domain["name"], domain["epoch"]) for domain in status["domains"]] == [("default", 1)]
    assert all(certificate.not_valid_after_utc > now for certificate in certificates(fleet.data, "leaf.pem"))

    kms = fleet.client()  # the admin's access key, from DATA/credentials
    assert {key["KeyId"] for key in kms.list_keys()["Keys"]} == {expected["key"], expected["disabled"]}
    assert kms.describe_key(KeyId=expected["alias"])["KeyMetadata"]["KeyId"] == expected["key"]
    assert kms.describe_key(KeyId=expected["disabled"])["KeyMetadata"]["KeyState"] == "Disabled"

    access = expected["access"]
    user = fleet.client(key=access["access_key_id"], secret=access["secret_access_key"])
    blob = b64decode(expected["blob"])
    plain = user.decrypt(CiphertextBlob=blob, EncryptionContext=expected["context"])["Plaintext"]
    assert plain == b64decode(expected["plaintext"])
    with pytest.raises(ClientError) as other_context:
        user.decrypt(CiphertextBlob=blob, EncryptionContext=expected["context"] | {"tenant": "18"})
    assert code_of(other_context) == "InvalidCiphertextException"
    data_key = user.decrypt(CiphertextBlob=b64decode(expected["data_key_blob"]))["Plaintext"]
    assert data_key == b64decode(expected["data_key"])
    with pytest.raises(ClientError) as not_a_users:
        user.create_alias(AliasName="alias/by-user", TargetKeyId=expected["key"])
    assert code_of(not_a_users) == "AccessDeniedException"

    made = kms.create_key()["KeyMetadata"]["KeyId"]
    fresh = user.encrypt(KeyId=made, Plaintext=b"after")["CiphertextBlob"]
    assert user.decrypt(CiphertextBlob=fresh)["Plaintext"] == b"after"
    kms.enable_key(KeyId=expected["disabled"])
    fleet.cli("hub", "backup", str(fleet.data.parent / "hub.backup"))
    fleet.cli("audit", "verify")
    fleet.cli("down")
    up(fleet)  # what this build wrote into it, this build reads
    assert fleet.client().decrypt(CiphertextBlob=fresh)["Plaintext"] == b"after"


def test_expired_tls_certificates_are_renewed_before_anything_is_served(
    kept: tuple[Fleet, dict[str, Any]],
) -> None:
    fleet, expected = kept
    for directory in (fleet.data / "hub", *(fleet.data / "nodes").iterdir()):
        expire(directory)
    up(fleet)
    context = expected["context"]
    plain = fleet.client().decrypt(CiphertextBlob=b64decode(expected["blob"]), EncryptionContext=context)
    assert plain["Plaintext"] == b64decode(expected["plaintext"])


def test_a_kept_directorys_authorities_hold_for_years(kept: tuple[Fleet, dict[str, Any]]) -> None:
    """Leaves are renewed at each start; the operator's root and the modules' authorities are not, and need not be."""
    fleet, _ = kept
    roots = certificates(fleet.data, "roots.pem")
    authorities = [
        x509.load_der_x509_certificate(path.read_bytes()) for path in fleet.data.glob("**/tls/ca.der")
    ]
    assert len(roots) == len(authorities) == 4
    for certificate in (*roots, *authorities):
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert lifetime > timedelta(days=365 * 20)
        assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=365), (
            "make a new one soon"
        )
