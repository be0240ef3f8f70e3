"""TLS 1.3 for the fleet: contexts from three files, and the name of whoever is at the other end.

Here: certificate chains (operator root → module CA → leaf) and what they prove.
Not here: connections. A TLS identity only decides where bytes come from and go to; alone it opens nothing.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from quorate.errors import BadInput, QuorateError
from quorate.ids import NodeId

MODULE_CA_ORGANIZATION = "quorate module"
"""A module's CA has this organization and the node's name; it certifies only leaves of that one name."""


class PeerRefused(QuorateError):
    """The other end is not who it must be."""

    code = "peer_refused"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"connection refused: {reason}",
            kept="no message was passed in either direction",
            remedy="check that both ends are enrolled in this fleet (`quorate node list`)",
        )


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: `cert_chain` is the leaf, then its module's CA; `key` the leaf's; `roots` the operator
    root(s).
    """

    cert_chain: Path
    key: Path
    roots: Path

    def server_context(self) -> ssl.SSLContext:
        """For a listener: asks every client for a certificate, and refuses it without. Raises `BadInput`."""
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client_context(self) -> ssl.SSLContext:
        """For a dialler: presents the leaf, and refuses a server outside the roots. Raises `BadInput`."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def enrolment_context(self) -> ssl.SSLContext:
        """For the enrolment door: shows our chain, asks for no certificate. Raises `BadInput`."""
        context = _tls13(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_NONE
        self._load_own(context)
        return context

    def take_up(self, context: ssl.SSLContext) -> None:
        """The chain and key as the files are now, for connections that begin from now on. Raises `BadInput`."""
        self._load_own(context)

    def _context(self, side: int) -> ssl.SSLContext:
        context = _tls13(side)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=load_root(self.roots))
        self._load_own(context)
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self.cert_chain, self.key)
        except (OSError, ssl.SSLError) as why:
            raise BadInput(
                f"{self.cert_chain} and {self.key} are not a certificate chain and its key: {why}",
                remedy="restore the two files, or enrol the node again",
            ) from why


def pinned_context(root: bytes) -> ssl.SSLContext:
    """For a client without a certificate that trusts one root (DER). Raises `PeerRefused` if it is no such
    root.
    """
    try:
        fit = _is_operator_root(x509.load_der_x509_certificate(root))
    except ValueError:
        fit = False
    if not fit:
        raise PeerRefused("what the other end shows as its root is no operator root")
    context = _tls13(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=root)
    return context


def anonymous_context() -> ssl.SSLContext:
    """For a client that trusts nothing it is told: it only fetches the root whose fingerprint it knows."""
    context = _tls13(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_NONE
    return context


def load_root(path: Path) -> bytes:
    """The operator root in `path` (PEM), as DER. Raises `BadInput` unless the file holds exactly one."""
    remedy = "restore the operator root that was saved at enrolment"
    try:
        roots = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as why:
        raise BadInput(f"{path} holds no readable root certificate: {why}", remedy=remedy) from why
    if len(roots) != 1 or not _is_operator_root(roots[0]):
        raise BadInput(f"{path} must hold one self-signed CA certificate of path length 1", remedy=remedy)
    return roots[0].public_bytes(serialization.Encoding.DER)


def _tls13(side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # who answers is known by name in the roster, not by address
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # no resumption: each connection verifies its chain anew
    return context


def _is_operator_root(certificate: x509.Certificate) -> bool:
    """A root must carry path length 1, else a module's CA could certify another module's CA by itself.

    The standard library cannot show the chain that was verified, but the TLS library does enforce this
    constraint.
    """
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return constraints.ca and constraints.path_length == 1 and certificate.issuer == certificate.subject


def peer_name(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> NodeId:
    """Who is at the other end of a finished mutual handshake: the leaf's name, which its module's CA must
    bear too.

    Raises `PeerRefused` when the two disagree or are not names.
    """
    certificate: dict[str, Any] | None = ssl_object.getpeercert()
    if not certificate:
        raise PeerRefused("the other end showed no verified certificate")
    leaf = _attribute(certificate, "subject", "commonName")
    authority = _attribute(certificate, "issuer", "commonName")
    organization = _attribute(certificate, "issuer", "organizationName")
    if (organization, authority) != (MODULE_CA_ORGANIZATION, leaf):
        raise PeerRefused(f"a certificate for {leaf!r} cannot come from {authority!r} of {organization!r}")
    try:
        return NodeId(leaf)
    except ValueError as why:
        raise PeerRefused(str(why)) from why


def _attribute(certificate: dict[str, Any], which: str, wanted: str) -> str:
    names = [value for rdn in certificate[which] for kind, value in rdn if kind == wanted]
    if len(names) != 1:
        raise PeerRefused(f"the certificate's {which} has {len(names)} attributes {wanted}, not one")
    return str(names[0])
