"""Appending to the audit log (format: the package's docstring): an answer leaves after its line is on disk.

Here: the hash chain, group commit, what may stand in a record, what a crash leaves behind.
Not here: where the log lies (local configuration only, attack N68), what is recorded, checking a log
(`verify`).

Group commit: what one turn of the event loop appends is written and synced together in the next, so a hundred
requests at once cost one sync. The loop waits for the disk: whoever appends must wait anyway before it may go
on, and handing lines to a thread and back cost more than all else of a line (docs/design.md, "Speed").

A failed write or sync is final: the kernel may have marked the lost pages clean (Rebello, ATC 2020), so nothing
is tried again, all waiting and all later appends are refused, and the process must stop.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import msgspec

from quorate.errors import BadInput, NewerFormat, StorageFailed

Value = str | int | float | bool | None | list[str]

MAX_NAMES = 64
MAX_TEXT = 4096
MAX_ITEMS = 256
MAX_LINE = 64 * 1024
"""Bytes, newline included."""

_GENESIS = "0" * 64
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_encode_in_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_MAX_INT = 2**63


class Storage(Protocol):
    """The two calls that a disk can fail; tests put faults here."""

    def write(self, fd: int, data: bytes) -> int:
        """Like `os.write`: returns how many bytes were taken."""
        ...

    def fdatasync(self, fd: int) -> None:
        """Like `os.fdatasync`."""
        ...


class Disk:
    """The real thing."""

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)


@dataclass(frozen=True, slots=True)
class TornTail:
    """What a crash left of an unfinished line: moved to `kept_in`, cut off the log at byte `offset`.

    No append of that line had returned, so nothing that was acknowledged is missing.
    """

    kept_in: Path
    offset: int
    size: int


class AuditLog:
    """One open log; belongs to one event loop, and to no other process (it is locked).

    `failed` is done, with the error, once the log is of no use any more: the process must stop then (attack
    N84). `torn` tells of an unfinished line found at opening.
    """

    def __init__(self, path: Path, *, now: Callable[[], datetime], storage: Storage | None = None) -> None:
        """Opens the log at `path`, or makes it (mode 0600). `now`: the wall clock, aware of its zone.

        Raises `BadInput` when another process has it open, or when its end is not a valid chain; `NewerFormat`;
        `StorageFailed` when the disk refuses.
        """
        self._path = path
        self._now = now
        self._storage = storage or Disk()
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[StorageFailed] = self._loop.create_future()
        self._failure: str | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._closed = False
        try:
            self._fd = _open(path)
            try:
                self._seq, self._last_hash, self.torn = _recover(path, self._fd)
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as why:
            raise StorageFailed(path, why.strerror or str(why)) from why

    def append(self, record: Mapping[str, Value]) -> asyncio.Future[None]:
        """Adds one line; the future is done when it is on disk, after every line whose `append` was called before.

        Raises `BadInput` for a record that may not stand in a log (then nothing is written); the future raises
        `StorageFailed` when the line is not on disk for sure. Whoever cancels it leaves the line all the same.
        """
        durable: asyncio.Future[None] = self._loop.create_future()
        failure = "the log is closed" if self._closed else self._failure
        if failure is not None:
            durable.set_exception(StorageFailed(self._path, failure))
            return durable
        line = self._line(check(record))
        if not self._waiting:
            self._loop.call_soon(self._commit)
        self._waiting.append((line, durable))
        return durable

    def close(self) -> None:
        """Writes what waits, then closes the file."""
        self._closed = True
        self._commit()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _line(self, event: str) -> bytes:
        time = self._now().astimezone(UTC).isoformat(timespec="microseconds")[:-6]
        body = f'{{"seq":{self._seq + 1},"time":"{time}Z","prev":"{self._last_hash}","event":{event}'
        self._last_hash = hashlib.sha256(body.encode("ascii") + b"}").hexdigest()
        self._seq += 1
        return f'{body},"hash":"{self._last_hash}"}}\n'.encode("ascii")

    def _commit(self) -> None:
        """Puts all waiting lines on disk."""
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        if self._failure is None:
            try:
                self._write(b"".join(line for line, _ in batch))
            except Exception as why:  # whatever it was, these lines are not on disk for sure
                self._failure = (isinstance(why, OSError) and why.strerror) or repr(why)
                self.failed.set_result(StorageFailed(self._path, self._failure))
        for _, durable in batch:
            if durable.done():  # its caller has gone
                continue
            if self._failure is None:
                durable.set_result(None)
            else:
                durable.set_exception(StorageFailed(self._path, self._failure))

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._storage.write(self._fd, data) :]
        self._storage.fdatasync(self._fd)


def check(record: Mapping[str, Value]) -> str:
    """The JSON text of a record that may stand in a log. Raises `BadInput`, which never quotes a value.

    Only plain types: no bytes, so that no key gets in by accident, and nothing that renders itself.
    """
    if not 0 < len(record) <= MAX_NAMES:
        raise _bad(f"an audit record has 1 to {MAX_NAMES} members, got {len(record)}")
    for name, value in record.items():
        if type(name) is not str or not _is_name(name):
            raise _bad("the name of a member of an audit record is 1 to 64 of a-z, 0-9 and _, a letter first")
        if not (type(value) is str and len(value) <= MAX_TEXT) and not _fits(value):
            raise _bad(f"{name!r} of an audit record is a {type(value).__name__} that may not stand there")
    encoded = msgspec.json.encode(record)
    text = encoded.decode("ascii") if encoded.isascii() else _encode_in_ascii(dict(record))
    if len(text) > MAX_LINE - 512:
        raise _bad(f"an audit record is at most {MAX_LINE - 512} bytes, got {len(text)}")
    return text


@lru_cache(maxsize=256)
def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _fits(value: object) -> bool:
    if value is None or type(value) is bool:
        return True
    if type(value) is str:
        return len(value) <= MAX_TEXT
    if type(value) is int:
        return -_MAX_INT <= value < _MAX_INT
    if type(value) is float:
        return value - value == 0  # neither infinite nor NaN, which JSON has not
    if type(value) is list:
        return len(value) <= MAX_ITEMS and all(type(item) is str and len(item) <= MAX_TEXT for item in value)
    return False


def _bad(message: str) -> BadInput:
    return BadInput(message, remedy="report this: it is a fault of the program, not of its user")


def _open(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as why:
        os.close(fd)
        raise BadInput(
            f"{path} is being written by another process",
            remedy="stop that process, or use another directory",
        ) from why
    _sync_directory(path.parent)
    return fd


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _recover(path: Path, fd: int) -> tuple[int, str, TornTail | None]:
    """Sequence number and hash of the last line, after an unfinished one was moved aside."""
    size = os.fstat(fd).st_size
    start = max(0, size - 2 * MAX_LINE)
    tail = os.pread(fd, size - start, start)
    whole = tail.rfind(b"\n") + 1
    lines = tail[:whole].split(b"\n")[:-1]
    if lines and (newer := re.match(rb'\{"format":([0-9]+)', lines[-1])):
        raise NewerFormat(path, found=int(newer[1]), reads=1)
    torn = None
    if whole < len(tail):
        if len(tail) - whole >= MAX_LINE:
            raise _corrupt(path, "its end is no line")
        torn = _move_aside(path, fd, start + whole, tail[whole:])
    if not lines:
        return 0, _GENESIS, torn
    return *_last(path, lines[-1]), torn


def _last(path: Path, line: bytes) -> tuple[int, str]:
    """Sequence number and hash of a line, if its hash is right."""
    body, mark, rest = line.rpartition(b',"hash":"')
    found = hashlib.sha256(body + b"}").hexdigest()
    if not mark or rest != found.encode("ascii") + b'"}':
        raise _corrupt(path, "the hash of its last line is wrong")
    head = re.match(rb'\{"seq":([1-9][0-9]{0,18}),"', body)
    if head is None:
        raise _corrupt(path, "its last line has no number")
    return int(head[1]), found


def _corrupt(path: Path, what: str) -> BadInput:
    return BadInput(
        f"{path} cannot be continued: {what}",
        remedy="find out who changed it (`quorate audit verify`), move it to a safe place, then start again",
    )


def _move_aside(path: Path, fd: int, offset: int, torn: bytes) -> TornTail:
    """Copies the unfinished line to a file of its own, durably, before it is cut off."""
    kept_in = path.with_name(f"{path.name}.{offset}.torn")
    copy = os.open(kept_in, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.write(copy, torn) != len(torn):
            raise OSError("short write")
        os.fsync(copy)
    finally:
        os.close(copy)
    _sync_directory(path.parent)
    os.ftruncate(fd, offset)
    os.fsync(fd)
    return TornTail(kept_in, offset, len(torn))
