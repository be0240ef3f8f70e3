"""The node's TLS files: made at enrolment, the leaf renewed when less than a third of its time is left.

Here: files, dates, names. The module's own TLS authority signs; TLS keys are ordinary files that open
nothing.
Not here: connections (`wire`, `kms`).
"""

import ssl
import time
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from quorate import _core
from quorate.errors import BadInput
from quorate.node.directory import Directory, replace_file

LIFETIME = 365 * 86400
"""Seconds."""
_SKEW = 3600  # a certificate holds from an hour ago, for clocks that lag


def check_authority(authority: bytes, tls_root: bytes, module: _core.Module) -> None:
    """`authority` (DER) certifies this module's TLS key, and comes from `tls_root`. Raises `BadInput`."""
    try:
        certificate = x509.load_der_x509_certificate(authority)
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(tls_root))
        fits = _spki(certificate) == module.tls_spki()
    except (ValueError, TypeError, InvalidSignature):
        fits = False
    if not fits:
        raise BadInput(
            "the hub sent a TLS authority that is not this module's, or not from the operator's root",
            remedy="approve the node again with the fleet's operator key",
        )


def write_files(directory: Directory, module: _core.Module, authority: bytes, tls_root: bytes) -> None:
    """Makes a TLS key and all files beside it; `authority` and `tls_root` are DER."""
    tls = directory.tls
    tls.key.parent.mkdir(mode=0o700, exist_ok=True)
    spki = _core.write_tls_key(tls.key)
    replace_file(directory.tls_ca, authority)
    replace_file(tls.roots, ssl.DER_cert_to_PEM_cert(tls_root).encode())
    _write_leaf(directory, module, spki, authority)


def renew_when_due(directory: Directory, module: _core.Module, now: float) -> bool:
    """Certifies the same key anew if less than a third of the leaf's time is left at `now` (unix seconds);
    true if it did.

    Raises `BadInput` when the files cannot be read.
    """
    try:
        leaf = x509.load_pem_x509_certificate(directory.tls.cert_chain.read_bytes())
        authority = directory.tls_ca.read_bytes()
    except (OSError, ValueError) as why:
        raise BadInput(
            f"the TLS files in {directory.tls_ca.parent} cannot be read: {why}",
            remedy="restore them, or enrol the node again",
        ) from why
    ends, begins = leaf.not_valid_after_utc, leaf.not_valid_before_utc
    at = datetime.fromtimestamp(now, UTC)
    if begins <= at and (ends - at) * 3 >= ends - begins:
        return False
    _write_leaf(directory, module, _spki(leaf), authority)
    return True


def _write_leaf(directory: Directory, module: _core.Module, spki: bytes, authority: bytes) -> None:
    now = int(time.time())
    names = directory.read_settings().tls_names
    leaf = module.certify_tls(spki, names=names, not_before=now - _SKEW, not_after=now + LIFETIME)
    chain = ssl.DER_cert_to_PEM_cert(leaf) + ssl.DER_cert_to_PEM_cert(authority)
    replace_file(directory.tls.cert_chain, chain.encode(), 0o644)


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
