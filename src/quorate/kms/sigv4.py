"""AWS Signature Version 4: the single verifier, which stands in front of all routing (attack N70 to N77).

Source: "Create a signed AWS API request", AWS IAM User Guide. Here: everything about a signature but its
HMAC, which the module computes (`backend.SignatureChecker`), because only the module holds access secrets.

It is stricter than AWS wherever a lenient reading was somebody's CVE: credentials only in the Authorization
header, never in the query; the body always hashed; every x-amz-* header signed; no session tokens; repeated
headers and paths that need normalising refused instead of interpreted.

Not here: what the caller may do (operation.py), replay of a valid signature (replay.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote_from_bytes

import msgspec

from quorate.kms import errors
from quorate.kms.backend import Identity, SignatureChecker
from quorate.kms.http import SignedRequest

MAX_SKEW = 300.0
"""Seconds between the signer's clock and ours."""

_ALGORITHM = b"AWS4-HMAC-SHA256"
_SINGULAR = frozenset(
    {b"authorization", b"host", b"date", b"content-type", b"content-length", b"transfer-encoding"}
)
_SIGNATURE = b"Signature="
_HEX_DIGITS = re.compile(rb"[0-9a-f]{64}")
_KNOWN = 1024
_KNOWN_ORDERS = 16
_INVOCATION, _ATTEMPT = b"amz-sdk-invocation-id", b"amz-sdk-request"


class Verified(msgspec.Struct, frozen=True):
    """A request whose signature holds. `signed_at`: seconds since 1970, by the signer's clock. `once` tells this
    request from every other (64 hexadecimal digits; see `replay`).
    """

    identity: Identity
    signed_at: float
    once: str


@dataclass(frozen=True, slots=True)
class _Authorization:
    """What an Authorization header says before its signature. `covered`: lists of header names, as they came in
    requests, that are known to have all signed that must be.
    """

    access_key_id: str
    date: str
    region: str
    service: str
    terminator: str
    listed: bytes
    names: tuple[bytes, ...]
    covered: set[tuple[bytes, ...]] = field(default_factory=set)


class Verifier:
    """Checks requests for one region. `wall_clock` returns seconds since 1970.

    A client's requests differ in little: what was read of a header, once a signature under it held, and of a time
    is kept for the next that has the same bytes.
    """

    def __init__(self, checker: SignatureChecker, region: str, wall_clock: Callable[[], float]) -> None:
        self._checker = checker
        self._region = region
        self._now = wall_clock
        self._read: dict[bytes, _Authorization] = {}
        self._last_time = (b"", "", 0.0)

    async def verify(self, request: SignedRequest, service: str) -> Verified:
        """`service`: the name that the scope must bear, `kms` or `sts`.

        Raises `errors.KmsError` when the request is not properly signed, and `backend.SignatureRejected` when
        the module does not accept its signature.
        """
        headers = _unambiguous(request)
        path, question, _ = request.target.partition(b"?")
        if question:
            raise errors.ambiguous_request(
                "This endpoint accepts no query string: credentials and parameters are "
                "read from headers and body only."
            )
        value = headers.get(b"authorization")
        if not value:
            raise errors.missing_authentication()
        before, _, ending = value.rpartition(_SIGNATURE)
        known = self._read.get(before)
        if known is not None and _HEX_DIGITS.fullmatch(ending):
            authorization, signature = known, ending
        else:
            authorization, signature = _parse_authorization(value)
        if b"x-amz-security-token" in headers:
            raise errors.security_token_refused()
        _require_signed(headers, authorization)
        stamp, signed_at = self._signing_time(headers)
        self._check_scope(authorization, service, stamp)
        self._check_skew(stamp, signed_at)

        digest = hashlib.sha256(request.body).hexdigest().encode()
        declared = headers.get(b"x-amz-content-sha256")
        if declared is not None and declared != digest:
            raise errors.invalid_signature(
                "The value of x-amz-content-sha256 must be the SHA-256 of the body: unsigned "
                "and streaming payloads are not accepted, and another hash does not match."
            )
        canonical = b"\n".join(
            (
                request.method.encode(),
                _canonical_path(path),
                b"",
                *[name + b":" + b" ".join(headers[name].split()) for name in authorization.names],
                b"",
                authorization.listed,
                digest,
            )
        )
        scope = f"{authorization.date}/{self._region}/{service}/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"
        identity = await self._checker.check(
            authorization.access_key_id,
            authorization.date,
            self._region,
            service,
            to_sign.encode(),
            signature.decode("ascii"),
        )
        if known is None and signature == ending:
            if len(self._read) >= _KNOWN:
                self._read.clear()
            self._read[before] = authorization
        return Verified(identity, signed_at, _once(signature, headers))

    def _signing_time(self, headers: dict[bytes, bytes]) -> tuple[str, float]:
        """Time of signing as `YYYYMMDDTHHMMSSZ` and in seconds since 1970, from x-amz-date, else from Date."""
        raw = headers.get(b"x-amz-date")
        last, stamp, signed_at = self._last_time
        if raw is None or raw != last:
            stamp, signed_at = _parse_time(raw, headers)
            if raw is not None:
                self._last_time = raw, stamp, signed_at
        return stamp, signed_at

    def _check_scope(self, given: _Authorization, service: str, stamp: str) -> None:
        if given.terminator != "aws4_request":
            raise errors.invalid_signature(
                "Credential should be scoped with a valid terminator: 'aws4_request'."
            )
        if given.region != self._region:
            raise errors.invalid_signature(
                f"Credential should be scoped to a valid region: '{self._region}'."
            )
        if given.service != service:
            raise errors.invalid_signature(f"Credential should be scoped to correct service: '{service}'.")
        if given.date != stamp[:8]:
            raise errors.invalid_signature(
                f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of "
                f"date from HTTP: '{given.date}' != '{stamp[:8]}'."
            )

    def _check_skew(self, stamp: str, signed_at: float) -> None:
        now = self._now()
        if now - signed_at > MAX_SKEW:
            raise errors.invalid_signature(
                f"Signature expired: {stamp} is now earlier than {_stamp(now - MAX_SKEW)} "
                f"({_stamp(now)} - 5 min.)"
            )
        if signed_at - now > MAX_SKEW:
            raise errors.invalid_signature(
                f"Signature not yet current: {stamp} is still later than "
                f"{_stamp(now + MAX_SKEW)} ({_stamp(now)} + 5 min.)"
            )


def _unambiguous(request: SignedRequest) -> dict[bytes, bytes]:
    """Headers by name. Raises if one that is signed, or that we act on, occurs twice."""
    headers = dict(request.headers)
    if len(headers) == len(request.headers):
        return headers
    seen: set[bytes] = set()
    signed = b";".join(
        (b"", headers.get(b"authorization", b"").partition(b"SignedHeaders=")[2].partition(b",")[0], b"")
    )
    for name, _ in request.headers:
        if name in seen and (name in _SINGULAR or name.startswith(b"x-amz-") or b";" + name + b";" in signed):
            raise errors.ambiguous_request(f"The header '{name.decode('latin-1')}' occurs more than once.")
        seen.add(name)
    return headers


def _parse_authorization(value: bytes) -> tuple[_Authorization, bytes]:
    """What the header says, and its signature (64 hexadecimal digits)."""
    algorithm, _, rest = value.partition(b" ")
    if algorithm != _ALGORITHM:
        raise errors.incomplete_signature("Authorization header requires the algorithm AWS4-HMAC-SHA256.")
    parts: dict[bytes, bytes] = {}
    for item in rest.split(b","):
        name, equals, content = item.strip().partition(b"=")
        if not equals or name in parts:
            raise errors.incomplete_signature(
                "Authorization header must hold each of 'Credential', 'SignedHeaders' and 'Signature' once."
            )
        parts[name] = content
    for wanted in (b"Credential", b"SignedHeaders", b"Signature"):
        if not parts.get(wanted):
            raise errors.incomplete_signature(f"Authorization header requires '{wanted.decode()}' parameter.")
    if len(parts) != 3:
        raise errors.incomplete_signature("Authorization header holds a parameter that is not known.")
    try:
        credential = parts[b"Credential"].decode("ascii").split("/")
    except UnicodeDecodeError:
        raise errors.incomplete_signature("Authorization header must be ASCII.") from None
    if len(credential) != 5:
        raise errors.incomplete_signature(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."
        )
    access_key_id, date, region, service, terminator = credential
    if len(access_key_id) > 128 or not access_key_id.replace("_", "").isalnum():
        raise errors.incomplete_signature(
            "Credential must begin with an access key id: letters, digits and underscores, at most 128."
        )
    if not _HEX_DIGITS.fullmatch(parts[b"Signature"]):
        raise errors.incomplete_signature("Signature must be 64 lower-case hexadecimal digits.")
    listed = parts[b"SignedHeaders"]
    names = tuple(listed.split(b";"))
    if any(not name or name != name.lower() for name in names) or list(names) != sorted(set(names)):
        raise errors.incomplete_signature(
            "SignedHeaders must name each header once, in lower case and in ascending order."
        )
    read = _Authorization(access_key_id, date, region, service, terminator, listed, names)
    return read, parts[b"Signature"]


def _require_signed(headers: dict[bytes, bytes], authorization: _Authorization) -> None:
    """Every header that the endpoint acts on must be under the signature (attack N70)."""
    given = tuple(headers)
    if given in authorization.covered:
        return
    names = authorization.names
    if b"host" not in names:
        raise errors.invalid_signature("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    for name in names:
        if name not in headers:
            raise errors.invalid_signature("A header named in SignedHeaders is not in the request.")
    for name in given:
        if (name.startswith(b"x-amz-") or name == b"content-type" or name == b"date") and name not in names:
            if name == b"date" and b"x-amz-date" in headers:
                continue  # x-amz-date is the time that counts; some HTTP clients add their own Date
            raise errors.invalid_signature(
                f"'{name.decode('latin-1')}' must be a 'SignedHeader' in the AWS Authorization."
            )
    if len(authorization.covered) < _KNOWN_ORDERS:
        authorization.covered.add(given)


def _parse_time(raw: bytes | None, headers: dict[bytes, bytes]) -> tuple[str, float]:
    try:
        if raw is None:
            when = parsedate_to_datetime(headers[b"date"].decode("ascii")).astimezone(UTC)
            return when.strftime("%Y%m%dT%H%M%SZ"), when.timestamp()
        stamp = raw.decode("ascii")
        if len(stamp) != 16 or stamp[8] != "T" or stamp[15] != "Z" or not (stamp[:8] + stamp[9:15]).isdigit():
            raise ValueError(stamp)
        when = datetime(
            int(stamp[:4]),
            int(stamp[4:6]),
            int(stamp[6:8]),
            int(stamp[9:11]),
            int(stamp[11:13]),
            int(stamp[13:15]),
            tzinfo=UTC,
        )
        return stamp, when.timestamp()
    except KeyError:
        raise errors.incomplete_signature(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        ) from None
    except (ValueError, OverflowError):
        raise errors.incomplete_signature(
            "Date must be in ISO-8601 'basic format', YYYYMMDDTHHMMSSZ."
        ) from None


def _once(signature: bytes, headers: dict[bytes, bytes]) -> str:
    """A signature has seconds only, and SDKs do not sign what tells their calls apart within one."""
    parts = (signature, headers.get(_INVOCATION, b""), headers.get(_ATTEMPT, b""))
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def _canonical_path(path: bytes) -> bytes:
    """The path as sent, encoded once more. One that needs normalising is refused: two readings, two
    signatures.
    """
    if path == b"/":
        return path
    segments = path.split(b"/")
    if segments[0] or b"." in segments or b".." in segments or b"" in segments[1:-1]:
        raise errors.ambiguous_request("The path must begin with '/', without empty, '.' or '..' segments.")
    return quote_from_bytes(path, safe="/-_.~").encode()


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
