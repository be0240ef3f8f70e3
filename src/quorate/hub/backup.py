"""A hub's backup in one file, and how it is put back (docs/operations.md).

Here: which files a backup holds, its format, the order of a restore's steps.
Not here: SQL (`store.snapshot`). The module's vault is in no backup: a copy would be an old module, which the
fleet must not trust, with the fleet key in it. So a backup holds no key, and is of use to its own hub only.

    quorate hub backup\\n
    {"format":1,"fleet":"<hex>","schema":"0001","time":"…Z","release":"0.1.0","files":[["hub.db",86016],…]}\\n
    the files' bytes, one after another
    SHA-256 of everything before it, 32 bytes

The checksum finds damage. It is no signature: whoever can write the file can forge it, and then has what whoever
can write the hub's directory has. Records, charters and configurations are signed one by one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from quorate import _core
from quorate.errors import BadInput, DataDirectoryMismatch, NewerFormat
from quorate.host.files import sync_directory
from quorate.hub.directory import Directory
from quorate.store import snapshot

FORMAT = 1
_MAGIC = b"quorate hub backup\n"
_DIGEST = 32
_LONGEST_HEADER = 4096
_CHUNK = 1 << 20
DATABASE = "hub.db"
_PUBLIC = ("settings.json", "fleet-info", "tls/ca.der", "tls/roots.pem")
"""Small files without a secret that the hub cannot start without; put back only where they are missing."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in a backup's second line. `time`: UTC, when the database was copied."""

    fleet: bytes
    schema: str
    time: str
    release: str
    files: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """`kept`: the directory that the earlier database lies in now; `added`: other files that were missing."""

    header: Header
    kept: Path | None
    added: tuple[str, ...]


def backup(data: Path, target: Path, *, now: datetime) -> Header:
    """Writes a backup of DATA/hub to `target`, mode 0600; the hub may run. All of it appears, or nothing.

    Raises `BadInput` (also when there is a `target`), `NewerFormat`, `DataDirectoryMismatch`.
    """
    directory = Directory.of(data)
    directory.read_settings()
    if target.exists():
        raise _exists(target)
    with _writing(target), TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
        copied = Path(work) / DATABASE
        snapshot.copy(directory.database, copied)
        found = snapshot.examine(copied)
        if found.fleet != (fleet := _fleet(directory.fleet_info)):
            raise DataDirectoryMismatch(
                directory.path,
                found=f"a database of fleet {found.fleet.hex()}",
                wanted=f"fleet {fleet.hex()}",
            )
        parts = [(DATABASE, copied), *((name, directory.path / name) for name in _PUBLIC)]
        header = Header(
            fleet,
            found.schema,
            now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            str(_core.build_info()["version"]),
            tuple((name, path.stat().st_size) for name, path in parts),
        )
        fresh = Path(work) / "backup"
        _pack(fresh, header, [path for _, path in parts])
        _publish(fresh, target)
    return header


def restore(data: Path, source: Path, *, now: datetime) -> Restored:
    """Puts the database of a backup into DATA/hub, whose hub must not run. The earlier one is kept beside it.

    Nothing is changed before everything has been checked. Raises `BadInput`, `NewerFormat`,
    `DataDirectoryMismatch`.
    """
    directory = Directory.of(data)
    with _at_rest(directory), TemporaryDirectory(prefix="restore.", dir=directory.path) as made:
        work = Path(made)
        try:
            header = _unpack(source, work)
            found = snapshot.examine(work / DATABASE)
        except BadInput as why:
            raise BadInput(f"{source}: {why}", remedy=why.remedy) from why
        info = directory.fleet_info if directory.fleet_info.exists() else work / "fleet-info"
        fleet = _fleet(info)
        for what, of in (("backup", header.fleet), ("database", found.fleet)):
            if of != fleet:
                raise DataDirectoryMismatch(
                    source, found=f"a {what} of fleet {of.hex()}", wanted=f"fleet {fleet.hex()}"
                )
        kept = _set_aside(directory, now)
        (work / DATABASE).rename(directory.database)
        added = tuple(name for name in _PUBLIC if _add(work / name, directory.path / name))
        sync_directory(directory.path)
    return Restored(header, kept, added)


# Packing and unpacking.


def _pack(path: Path, header: Header, files: list[Path]) -> None:
    line = {
        "format": FORMAT,
        "fleet": header.fleet.hex(),
        "schema": header.schema,
        "time": header.time,
        "release": header.release,
        "files": header.files,
    }
    digest = hashlib.sha256()
    with _private(path) as out:

        def put(data: bytes) -> None:
            digest.update(data)
            out.write(data)

        put(_MAGIC + json.dumps(line, separators=(",", ":")).encode() + b"\n")
        for (name, size), file in zip(header.files, files, strict=True):
            with file.open("rb") as content:
                for part in _parts(content, size, f"{name} changed while it was read"):
                    put(part)
        out.write(digest.digest())
        out.flush()
        os.fsync(out.fileno())


def _unpack(source: Path, into: Path) -> Header:
    """Writes the files of a backup below `into`, durably, and returns its header once the checksum is right."""
    digest = hashlib.sha256()
    with source.open("rb") as content:
        if content.read(len(_MAGIC)) != _MAGIC:
            raise BadInput("this is no backup of a hub", remedy="name a file that `quorate hub backup` made")
        line = content.readline(_LONGEST_HEADER)
        header = _header(source, line)
        digest.update(_MAGIC + line)
        for name, size in header.files:
            path = into / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with _private(path) as out:
                for part in _parts(content, size, "it ends too early"):
                    digest.update(part)
                    out.write(part)
                out.flush()
                os.fsync(out.fileno())
        if content.read(_DIGEST + 1) != digest.digest():
            raise _altered("its checksum is wrong")
    return header


def _header(source: Path, line: bytes) -> Header:
    try:
        found = json.loads(line)
        version = found["format"]
        if isinstance(version, int) and version > FORMAT:
            raise NewerFormat(source, found=version, reads=FORMAT)
        header = Header(
            bytes.fromhex(found["fleet"]),
            str(found["schema"]),
            str(found["time"]),
            str(found["release"]),
            tuple((str(name), int(size)) for name, size in found["files"]),
        )
    except (ValueError, KeyError, TypeError) as why:
        raise _altered("its header cannot be read") from why
    names = tuple(name for name, _ in header.files)
    if version != FORMAT or names != (DATABASE, *_PUBLIC):
        raise _altered("its header is not one of this format")
    return header


def _parts(content: IO[bytes], size: int, short: str) -> Iterator[bytes]:
    """Exactly `size` bytes, in parts."""
    while size > 0:
        part = content.read(min(size, _CHUNK))
        if not part:
            raise _altered(short)
        size -= len(part)
        yield part


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _altered(why: str) -> BadInput:
    return BadInput(f"the backup is damaged or altered: {why}", remedy="use another backup")


# What is done to the file system.


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        raise BadInput(
            f"{target} cannot be written: {why}",
            remedy="mend the disk (space, permissions), or name another place",
        ) from why


def _publish(fresh: Path, target: Path) -> None:
    """Gives the finished file its name, which must be free, durably."""
    try:
        target.hardlink_to(fresh)  # a rename would replace what is there
    except FileExistsError as why:
        raise _exists(target) from why
    except OSError:  # a file system without links
        if target.exists():
            raise _exists(target) from None
        fresh.rename(target)
    sync_directory(target.parent)


def _exists(target: Path) -> BadInput:
    return BadInput(f"there is a file {target} already", remedy="name another file: a backup replaces none")


@contextlib.contextmanager
def _at_rest(directory: Directory) -> Iterator[None]:
    """Holds the lock of the module's vault, so that no hub runs or starts meanwhile."""
    try:
        lock = os.open(directory.module, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as why:
        raise BadInput(
            f"there is no hub's module in {directory.path}, and a backup holds none",
            remedy="check --data; if the hub's directory is lost, see docs/operations.md",
        ) from why
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            raise BadInput(
                f"the hub in {directory.path} runs",
                remedy="stop it first (`quorate down`, or SIGTERM to `quorate hub serve`); clients are served again "
                "once it is back",
            ) from why
        yield
    finally:
        os.close(lock)


def _set_aside(directory: Directory, now: datetime) -> Path | None:
    """Moves the database, with what its log holds, into a directory beside it.

    The log is linked there first and the database moved next, in one step: a crash leaves the old pair in its
    place, or all of it set aside and no database, with which a hub does not start.
    """
    log = directory.path / f"{DATABASE}-wal"
    has_log = log.exists() and log.stat().st_size > 0
    kept = None
    if directory.database.exists() or has_log:
        stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = directory.path / f"before-restore-{stamp}"
        kept.mkdir(mode=0o700)
        if has_log:
            (kept / log.name).hardlink_to(log)
            sync_directory(kept)
        if directory.database.exists():
            directory.database.rename(kept / DATABASE)
            sync_directory(kept)
        sync_directory(directory.path)
    for left in (log, directory.path / f"{DATABASE}-shm"):
        left.unlink(missing_ok=True)
    sync_directory(directory.path)
    return kept


def _add(fresh: Path, place: Path) -> bool:
    if place.exists():
        return False
    place.parent.mkdir(mode=0o700, exist_ok=True)
    fresh.rename(place)
    sync_directory(place.parent)
    return True


def _fleet(info: Path) -> bytes:
    seen: dict[str, Any] = _core.view_approved(info.read_bytes())
    return bytes(seen["fleet"])
