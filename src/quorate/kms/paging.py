"""Pages of lists: AWS's Limit and Marker over an ascending order.

A marker is the last name of the previous page, in base64 behind a version; clients must not look inside. It needs no
protection: it starts a list that its bearer may read anyway.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any, TypeVar

from quorate.kms import errors

T = TypeVar("T")

_VERSION = b"\x01"


def after(marker: str | None) -> str | None:
    """The name that a marker stands for. Raises InvalidMarkerException."""
    if marker is None:
        return None
    try:
        raw = binascii.a2b_base64(marker.encode("ascii"), strict_mode=True)
        if raw[:1] != _VERSION:
            raise ValueError("unknown version")
        return raw[1:].decode()
    except ValueError:
        raise errors.invalid_marker(marker) from None


def page(found: Sequence[T], limit: int, last: str) -> tuple[Sequence[T], dict[str, Any]]:
    """Cuts a list of up to limit+1 entries. `last` is the name of entry `limit`. Returns it with AWS's page members."""
    if len(found) <= limit:
        return found, {"Truncated": False}
    marker = binascii.b2a_base64(_VERSION + last.encode(), newline=False).decode()
    return found[:limit], {"Truncated": True, "NextMarker": marker}
