"""Requests that must not run twice, kept as long as their signature is valid (attack N75).

A byte-identical repeat of a guarded call is refused with `errors.replayed` (403, not retryable): the first
answer may have held a secret and is not kept.

What tells requests apart: the signature, and the headers `amz-sdk-invocation-id` and `amz-sdk-request`. A
signature's time has seconds only and botocore does not sign the two headers, so two calls of one second with
the same parameters, and the SDK's own retries, bear one signature; all of them must work. Whoever can read
and change requests inside TLS can therefore repeat one within its five minutes, as on AWS: a repeat makes one
more key or data key whose plaintext goes to the repeater's connection alone, and is audited.

What this cache cannot see: it belongs to one process. Several nodes share one port and one set of access
keys, and a repeat may reach another node, or the same one after a restart. Calls that change state therefore
carry their mark to the backend (`Call.request_token`), which must refuse a repeat fleet-wide. For
GenerateDataKey this cache is all there is: a repeat on another node makes one more data key, changes nothing,
and is audited.

Not here: SigV4 itself, and the mark (sigv4.py).
"""

from __future__ import annotations

import math

from quorate.kms import errors
from quorate.kms.sigv4 import MAX_SKEW


class ReplayGuard:
    """Remembers up to `capacity` requests; beyond it refuses new calls (ThrottlingException), never forgets one.

    64 bits of each mark are kept, about 80 bytes of memory with overhead. A chance match refuses a valid
    call with probability capacity/2^64; it can never admit a repeat.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_expiry: dict[int, set[int]] = {}
        self._size = 0
        self._swept = -math.inf

    def admit(self, once: str, signed_at: float, now: float) -> None:
        """Records a verified request by its mark (hexadecimal). Raises if it was recorded before.

        `signed_at`, `now`: seconds since 1970.
        """
        self._sweep(now)
        mark = int(once[:16], 16)
        bucket = self._by_expiry.setdefault(math.floor(signed_at + MAX_SKEW), set())
        if mark in bucket:
            raise errors.replayed()
        if self._size >= self._capacity:
            raise errors.throttled("Rate exceeded: this node remembers no more requests; retry in a minute.")
        bucket.add(mark)
        self._size += 1

    def _sweep(self, now: float) -> None:
        """Once a second at most: forgets whole seconds whose signatures the verifier refuses by now."""
        if now - self._swept < 1.0 and now >= self._swept:
            return
        self._swept = now
        # One second of slack: the verifier read the clock before we did, and may have accepted on the edge.
        for expiry in [expiry for expiry in self._by_expiry if expiry + 2 < now]:
            self._size -= len(self._by_expiry.pop(expiry))
