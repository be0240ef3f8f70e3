"""Certificates as a fleet has them, made for one test: operator root → module CA → TLS leaf, all P-256."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quorate.wire.tls import TlsFiles

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def name(text: str, organization: str | None = None) -> x509.Name:
    common = x509.NameAttribute(NameOID.COMMON_NAME, text)
    if organization is None:
        return x509.Name([common])
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization), common])


def certify(
    common_name: str,
    issuer: Issuer | None,
    *,
    organization: str | None = None,
    path_length: int | None = None,
    authority: bool = True,
) -> Issuer:
    """A certificate of a fresh key; self-signed without `issuer`, a leaf without `authority`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = name(common_name, organization)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
    )
    if not authority:
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    return Issuer(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def root(common_name: str = "quorate operator", *, path_length: int | None = 1) -> Issuer:
    return certify(common_name, None, path_length=path_length)


def module(issuer: Issuer, node: str) -> Issuer:
    return certify(node, issuer, organization="quorate module", path_length=0)


def files(directory: Path, trusted: Issuer, leaf: Issuer, *above: Issuer) -> TlsFiles:
    """The three PEM files of one node: `leaf` and the certificates `above` it, its key, its root."""
    directory.mkdir(parents=True, exist_ok=True)
    chain, key, roots = directory / "chain.pem", directory / "key.pem", directory / "roots.pem"
    pem = serialization.Encoding.PEM
    chain.write_bytes(b"".join(part.certificate.public_bytes(pem) for part in (leaf, *above)))
    key.write_bytes(
        leaf.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    roots.write_bytes(trusted.certificate.public_bytes(pem))
    return TlsFiles(chain, key, roots)


def node_files(directory: Path, operator: Issuer, node: str) -> TlsFiles:
    """What an enrolled node called `node` has."""
    authority = module(operator, node)
    return files(directory / node, operator, certify(node, authority, authority=False), authority)
