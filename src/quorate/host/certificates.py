"""A host's TLS files: made when it joins, the leaf renewed when less than a third of its time is left.

Here: files, dates. The module's own TLS authority signs; TLS keys are ordinary files that open nothing.
Not here: connections (`wire`, `kms`), which names a host has.
"""

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from quorate import _core
from quorate.errors import BadInput
from quorate.host.files import replace_file
from quorate.wire.tls import TlsFiles

LIFETIME = 365 * 86400
"""Seconds."""
_SKEW = 3600  # a certificate holds from an hour ago, for clocks that lag


@dataclass(frozen=True, slots=True)
class Certificates:
    """`leaf.pem` (leaf, then the module's CA), `key.pem`, `roots.pem` and `ca.der` in one directory."""

    path: Path

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(self.path / "leaf.pem", self.path / "key.pem", self.path / "roots.pem")

    @property
    def authority(self) -> Path:
        return self.path / "ca.der"

    def write(self, module: _core.Module, names: Sequence[str], authority: bytes, tls_root: bytes) -> None:
        """Makes a TLS key and all files beside it. `names`: DNS names and IP addresses; the rest is DER."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.files.key.unlink(missing_ok=True)  # of an attempt that was cut short
        spki = _core.write_tls_key(self.files.key)
        replace_file(self.authority, authority)
        replace_file(self.files.roots, ssl.DER_cert_to_PEM_cert(tls_root).encode())
        self._write_leaf(module, names, spki, authority, time.time())

    def renew_when_due(self, module: _core.Module, names: Sequence[str], now: float) -> bool:
        """Certifies the same key anew if less than a third of the leaf's time is left at `now` (unix seconds);
        makes a new key where key or leaf are missing. True if it did either.

        Raises `BadInput` when the files cannot be read.
        """
        try:
            authority = self.authority.read_bytes()
            if not (self.files.cert_chain.exists() and self.files.key.exists()):
                self.files.cert_chain.unlink(
                    missing_ok=True
                )  # first: a leaf never stands beside another's key
                self.files.key.unlink(missing_ok=True)
                self._write_leaf(module, names, _core.write_tls_key(self.files.key), authority, now)
                return True
            leaf = x509.load_pem_x509_certificate(self.files.cert_chain.read_bytes())
        except (OSError, ValueError) as why:
            raise BadInput(
                f"the TLS files in {self.path} cannot be read: {why}",
                remedy="restore them, or enrol again",
            ) from why
        ends, begins = leaf.not_valid_after_utc, leaf.not_valid_before_utc
        at = datetime.fromtimestamp(now, UTC)
        if begins <= at and (ends - at) * 3 >= ends - begins:
            return False
        self._write_leaf(module, names, _spki(leaf), authority, now)
        return True

    def _write_leaf(
        self, module: _core.Module, names: Sequence[str], spki: bytes, authority: bytes, now: float
    ) -> None:
        at = int(now)
        leaf = module.certify_tls(spki, names=names, not_before=at - _SKEW, not_after=at + LIFETIME)
        chain = ssl.DER_cert_to_PEM_cert(leaf) + ssl.DER_cert_to_PEM_cert(authority)
        replace_file(self.files.cert_chain, chain.encode(), 0o644)


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


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
