"""Identifiers as types, parsed once at the edge; inside, nobody checks them again.

Here: the names and numbers that every room passes on. The compiled core has the same types with the same
rules.
Not here: anything that does something.
"""

import re
from dataclasses import dataclass

_NUMBER = re.compile(r"[1-9][0-9]{0,19}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)

Instant = float
"""Seconds on a monotonic clock, always an argument; differences mean something, the value does not."""


def _check_label(kind: str, text: str) -> None:
    if not _LABEL.fullmatch(text):
        raise ValueError(f"a {kind} is 1 to 63 of a-z, 0-9 and inner hyphens, got {text[:80]!r}")


@dataclass(frozen=True, slots=True, order=True)
class NodeId:
    """A module's name in its fleet's roster, a DNS label (RFC 1123 §2.1); never used twice."""

    value: str

    def __post_init__(self) -> None:
        _check_label("node name", self.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __str__(self) -> str:
        return self.value


HUB = NodeId("hub")
"""The name of every fleet's hub."""


@dataclass(frozen=True, slots=True, order=True)
class DomainId:
    """A domain's name, a DNS label (RFC 1123 §2.1), which is its first key version's too; a later version, which is a
    sharing of its own, has its number behind: `default`, `default.2`.
    """

    value: str

    def __post_init__(self) -> None:
        base, dot, version = self.value.partition(".")
        _check_label("domain name", base)
        if dot and not (_NUMBER.fullmatch(version) and 2 <= int(version) < 1 << 64):
            raise ValueError(f"a key version after a dot is 2 or more, got {self.value[:80]!r}")

    @classmethod
    def named(cls, text: str) -> "DomainId":
        """A domain as people and charters name it. Raises `ValueError`, also for one key version's name."""
        _check_label("domain name", text)
        return cls(text)

    @property
    def base(self) -> "DomainId":
        """The domain that this is a key version of."""
        return DomainId(self.value.partition(".")[0])

    @property
    def key_version(self) -> int:
        return int(self.value.partition(".")[2] or 1)

    def at_version(self, version: int) -> "DomainId":
        """Key version `version` of the domain that this one is of."""
        base = self.value.partition(".")[0]
        return DomainId(base if version == 1 else f"{base}.{version}")

    def __hash__(self) -> int:
        return hash(self.value)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """Generation of one domain's sharing, counted from 1; refresh and reshare add one."""

    value: int

    def __post_init__(self) -> None:
        if self.value < 1:
            raise ValueError(f"epoch counts from 1, got {self.value}")

    def __str__(self) -> str:
        return str(self.value)


def _check_16_bytes(kind: str, value: bytes) -> None:
    if not isinstance(value, bytes) or len(value) != 16:
        raise ValueError(f"a {kind} is 16 bytes")


@dataclass(frozen=True, slots=True, order=True)
class FleetId:
    """A fleet: 16 bytes, drawn at random when it is made."""

    value: bytes

    def __post_init__(self) -> None:
        _check_16_bytes("fleet id", self.value)

    def __str__(self) -> str:
        return self.value.hex()


@dataclass(frozen=True, slots=True, order=True)
class SessionId:
    """One quorum operation: 16 bytes, drawn at random by its requester."""

    value: bytes

    def __post_init__(self) -> None:
        _check_16_bytes("session id", self.value)

    def __str__(self) -> str:
        return self.value.hex()


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many of how many: `threshold` shares of `holders` open a domain, 2 ≤ threshold < holders ≤ 255."""

    threshold: int
    holders: int

    def __post_init__(self) -> None:
        if not 2 <= self.threshold < self.holders <= 255:
            raise ValueError(
                f"a quorum needs 2 ≤ threshold < holders ≤ 255, got {self.threshold} of {self.holders}"
            )

    def __str__(self) -> str:
        return f"{self.threshold} of {self.holders}"
