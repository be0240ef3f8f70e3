"""Checking an audit log (format: the package's docstring), by code that shares nothing with what wrote it.

Here: reading a log from its first line, and where its chain breaks.
Not here: mending it.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from quorate.errors import BadInput

_MEMBERS = ["seq", "time", "prev", "event", "hash"]
_LONGEST_LINE = 65536


@dataclass(frozen=True, slots=True)
class Breach:
    """The first line that does not fit: its number, counted from 1, its offset in bytes, and why."""

    line: int
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a log holds up to its end or its first breach; times as written, `last_hash` to be kept elsewhere."""

    lines: int
    first_time: str | None
    last_time: str | None
    last_hash: str | None
    breach: Breach | None


class _Misfit(Exception):
    pass


def verify(path: Path) -> Report:
    """Reads the whole log. A breach is in the report; raises `BadInput` only when the file cannot be read."""
    lines, offset = 0, 0
    first = last = digest = None
    try:
        with path.open("rb") as log:
            while raw := log.readline(_LONGEST_LINE + 1):
                try:
                    last, digest = _check(raw, lines + 1, digest or "0" * 64)
                except _Misfit as why:
                    return Report(lines, first, last, digest, Breach(lines + 1, offset, str(why)))
                first = first or last
                lines += 1
                offset += len(raw)
    except OSError as why:
        raise BadInput(
            f"{path} cannot be read: {why.strerror}", remedy="check the path and its permissions"
        ) from why
    return Report(lines, first, last, digest, None)


def _check(raw: bytes, number: int, before: str) -> tuple[str, str]:
    """Time and hash of line `number`, whose predecessor has the hash `before`."""
    if not raw.endswith(b"\n"):
        raise _Misfit("the line is too long" if len(raw) > _LONGEST_LINE else "the line is not finished")
    try:
        line = json.loads(raw.decode("ascii"), object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise _Misfit("the line is not ASCII text of one JSON object") from None
    if isinstance(line, dict) and list(line)[:1] == ["format"]:
        raise _Misfit(
            f"it was written by a newer Quorate, in format {line['format']}: verify it with that release"
        )
    if not isinstance(line, dict) or list(line) != _MEMBERS:
        raise _Misfit(f"the members are not {', '.join(_MEMBERS)}")
    if type(line["seq"]) is not int or line["seq"] != number:
        raise _Misfit(f"the number is not {number}")
    if line["prev"] != before:
        raise _Misfit("it does not follow the line before")
    if not isinstance(line["event"], dict):
        raise _Misfit("the event is not an object")
    _check_time(line["time"])
    ending = f',"hash":"{line["hash"]}"}}\n'.encode()
    if not raw.endswith(ending):
        raise _Misfit("the hash is not where it must be")
    actual = hashlib.sha256(raw[: -len(ending)] + b"}").hexdigest()
    if line["hash"] != actual:
        raise _Misfit("the hash is wrong: the line was changed")
    return line["time"], actual


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _check_time(text: object) -> None:
    try:
        datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S.%f%z")
        if not str(text).endswith("Z"):
            raise ValueError
    except ValueError:
        raise _Misfit("the time is not a time in UTC") from None
