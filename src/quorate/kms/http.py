"""One HTTP request and one HTTP response as values, so that a request can be forwarded exactly as it was
signed.

Here: the two values. Not here: sockets (`connection`) and what the bytes mean (sigv4, app).
"""

from __future__ import annotations

import msgspec

Header = tuple[bytes, bytes]


class SignedRequest(msgspec.Struct, frozen=True):
    """A request as it arrived, with all that the signature covers.

    `target`: path and query exactly as sent, percent-encoding untouched. `headers`: names in lower case, in
    the order of arrival, repeats kept. `peer`: the address it came from, for the audit log only.
    """

    method: str
    target: bytes
    headers: tuple[Header, ...]
    body: bytes
    peer: str = ""

    def header(self, name: bytes) -> bytes:
        """The first value of a header, or empty. The verifier refuses repeats of headers that matter."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""


class Response(msgspec.Struct, frozen=True):
    """An answer: status, headers (names in lower case), body."""

    status: int
    headers: tuple[Header, ...]
    body: bytes
