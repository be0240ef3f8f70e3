"""Errors that every room shares: what happened, what was kept, what to do.

Here: the base class, and the errors that more than one room raises or catches. `code` is stable:
`docs/errors.md`, the audit log and the API use it.
Not here: HTTP codes (`kms/`), exit codes (`cli/`). No message ever holds a secret.
"""

from pathlib import Path
from typing import ClassVar

from quorate.ids import DomainId


class QuorateError(Exception):
    """Base of every expected failure.

    `str()` is the message alone; `kept` says what was not lost, `remedy` what a person can do now.
    """

    code: ClassVar[str] = "failed"

    def __init__(self, message: str, *, kept: str, remedy: str) -> None:
        super().__init__(message)
        self.kept = kept
        self.remedy = remedy


class QuorumNotReached(QuorateError):
    code = "quorum_not_reached"

    def __init__(self, domain: DomainId, *, held: int, threshold: int) -> None:
        super().__init__(
            f"{held} of {threshold} shares of {domain} arrived before the deadline",
            kept="no key was rebuilt; shares and epoch are unchanged",
            remedy="start the silent holders (`quorate node list`), then try again",
        )


class HubUnreachable(QuorateError):
    code = "hub_unreachable"

    def __init__(self, doing: str) -> None:
        super().__init__(
            f"the hub does not answer, so {doing} is not possible now",
            kept="nothing was changed; what current leases cover still works",
            remedy="start the hub, or mend the link to it; nodes reconnect by themselves",
        )


class BadInput(QuorateError):
    """What a person or a file gave cannot be used; nothing was done with it."""

    code = "bad_input"

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message, kept="nothing was changed", remedy=remedy)


class StorageFailed(QuorateError):
    """A write or sync failed: what it covered is not durable, and the writer must not go on (attack N47)."""

    code = "storage_failed"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} could not be written: {reason}",
            kept="everything acknowledged before this is on disk; what waited for this write was refused",
            remedy="mend the disk (space, permissions, hardware), then start the process again",
        )
        self.path = path


class DataDirectoryMismatch(QuorateError):
    """The directory belongs to another fleet, another part, or another format version."""

    code = "data_directory_mismatch"

    def __init__(self, directory: Path, *, found: str, wanted: str) -> None:
        super().__init__(
            f"{directory} holds {found}, not {wanted}",
            kept="the directory was left as it is",
            remedy="point --data at the right directory, or at an empty one",
        )


class NewerFormat(QuorateError):
    """A file that a later release has written, in a format that this one does not know."""

    code = "newer_format"

    def __init__(self, path: Path, *, found: object, reads: object) -> None:
        super().__init__(
            f"{path} was written by a newer Quorate: it has format {found}, and this build reads {reads}",
            kept="nothing was changed",
            remedy="install the release that wrote it, or a later one",
        )


class PortInUse(QuorateError):
    code = "port_in_use"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"another process listens on {host}:{port}",
            kept="nothing was started on this port",
            remedy="stop that process, or choose another port",
        )


def in_full(error: QuorateError) -> str:
    """What happened, what was kept and what to do, for the one line that a log has."""
    return f"{error}; kept: {error.kept}; remedy: {error.remedy}"
