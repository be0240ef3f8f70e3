"""A host's TLS files: made when it joins, the leaf renewed when less than a third of its time is left.

Here: files, dates, and the renewal in a running process. The module's own TLS authority signs; TLS keys are ordinary
files that open nothing.
Not here: connections (`wire`, `kms`), which names a host has.
"""

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from quorate import _core
from quorate.errors import BadInput, QuorateError
from quorate.host.files import replace_file
from quorate.wire.tls import TlsFiles

LIFETIME = 365 * 86400
"""Seconds."""
_SKEW = 3600  # a certificate holds from an hour ago, for clocks that lag
_AGAIN = 60.0
"""Seconds until a renewal that failed is tried again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Validity:
    """Of a leaf: from `begins` to `ends`, in Unix seconds; it is renewed from `due` on."""

    begins: float
    ends: float

    @property
    def due(self) -> float:
        return self.ends - (self.ends - self.begins) / 3


@dataclass(frozen=True, slots=True)
class Certificates:
    """`leaf.pem` (leaf, then the module's CA), `key.pem`, `roots.pem` and `ca.der` in one directory."""

    path: Path

    @classmethod
    def of(cls, directory: Path) -> "Certificates":
        """Those of a hub's or a node's directory."""
        return cls(directory / "tls")

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(self.path / "leaf.pem", self.path / "key.pem", self.path / "roots.pem")

    @property
    def authority(self) -> Path:
        return self.path / "ca.der"

    def write(
        self, module: _core.Module, names: Sequence[str], authority: bytes, tls_root: bytes, now: float
    ) -> None:
        """Makes a TLS key and all files beside it. `names`: DNS names and IP addresses; `now`: Unix seconds; the rest
        is DER.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.files.key.unlink(missing_ok=True)  # of an attempt that was cut short
        spki = _core.write_tls_key(self.files.key)
        replace_file(self.authority, authority)
        replace_file(self.files.roots, ssl.DER_cert_to_PEM_cert(tls_root).encode())
        self._write_leaf(module, names, spki, authority, now)

    def validity(self) -> Validity:
        """The leaf's. Raises `BadInput` when the file cannot be read."""
        leaf = self._leaf()
        return Validity(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())

    def renew_when_due(self, module: _core.Module, names: Sequence[str], now: float) -> bool:
        """Certifies the same key anew if less than a third of the leaf's time is left at `now` (Unix seconds), or if
        it does not hold yet; makes a new key where key or leaf are missing. True if it did either.

        Raises `BadInput` when the files cannot be read.
        """
        if not (self.files.cert_chain.exists() and self.files.key.exists()):
            self.files.cert_chain.unlink(missing_ok=True)  # first: a leaf never stands beside another's key
            self.files.key.unlink(missing_ok=True)
            self._write_leaf(module, names, _core.write_tls_key(self.files.key), self._authority(), now)
            return True
        held = self.validity()
        if held.begins <= now < held.due:
            return False
        self._write_leaf(module, names, _spki(self._leaf()), self._authority(), now)
        return True

    def _authority(self) -> bytes:
        try:
            return self.authority.read_bytes()
        except OSError as why:
            raise self._unreadable(why) from why

    def _leaf(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self.files.cert_chain.read_bytes())
        except (OSError, ValueError) as why:
            raise self._unreadable(why) from why

    def _unreadable(self, why: Exception) -> BadInput:
        return BadInput(
            f"the TLS files in {self.path} cannot be read: {why}", remedy="restore them, or enrol again"
        )

    def _write_leaf(
        self, module: _core.Module, names: Sequence[str], spki: bytes, authority: bytes, now: float
    ) -> None:
        at = int(now)
        leaf = module.certify_tls(spki, names=names, not_before=at - _SKEW, not_after=at + LIFETIME)
        chain = ssl.DER_cert_to_PEM_cert(leaf) + ssl.DER_cert_to_PEM_cert(authority)
        replace_file(self.files.cert_chain, chain.encode(), 0o644)


class Renewal:
    """The leaf of a running process. `take_up` is called after a renewal: new connections get the new certificate,
    those that are open keep theirs. `now`: the wall clock, Unix seconds.
    """

    def __init__(
        self,
        certificates: Certificates,
        module: _core.Module,
        names: Sequence[str],
        now: Callable[[], float],
        take_up: Callable[[], None],
    ) -> None:
        self._certificates = certificates
        self._module = module
        self._names = names
        self._now = now
        self._take_up = take_up
        self._due = certificates.validity().due

    def tick(self) -> None:
        """Several times a second: renews when it is time. A failure is logged, and tried again a minute later."""
        now = self._now()
        if now < self._due:
            return
        self._due = now + _AGAIN
        try:
            self._certificates.renew_when_due(self._module, self._names, now)
            self._take_up()
            held = self._certificates.validity()
        except (QuorateError, _core.CoreError, OSError) as why:
            _log.error("the TLS certificate could not be renewed: %s", why)
            return
        self._due = held.due
        _log.info("the TLS certificate was renewed, until %s", rfc3339(held.ends))


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
