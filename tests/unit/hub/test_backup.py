"""A hub's backup: what it holds, what it refuses, and that a refused one changes nothing."""

import asyncio
import hashlib
import json
import sqlite3
import stat
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quorate import _core
from quorate.errors import BadInput, DataDirectoryMismatch, NewerFormat
from quorate.hub import backup as backups
from quorate.hub import setup
from quorate.hub.backup import backup, restore
from quorate.hub.directory import Directory
from quorate.store import snapshot
from quorate.store.database import Database
from quorate.store.schema import SCHEMAS

NOW = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
LATER = datetime(2026, 2, 1, tzinfo=UTC)
BEGAN = 1_700_000_000


def make_hub(data: Path) -> Path:
    """A set-up hub in `data`; returns its directory."""
    operator = _core.Operator.create(
        data / "operator", region="us-east-1", account="000000000000", not_before=BEGAN
    )
    asyncio.run(setup.init(data, operator=operator, fleet_listen="127.0.0.1:0", enrol_listen="127.0.0.1:0"))
    return data / "hub"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    make_hub(tmp_path / "data")
    return tmp_path / "data"


def with_database(data: Path, work: Callable[[Database], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        directory = Directory.of(data)
        fleet = _core.view_approved(directory.fleet_info.read_bytes())["fleet"]
        database = await Database.open(directory.database, fleet)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(main())


def put(data: Path, value: bytes) -> None:
    with_database(data, lambda database: database.put_meta("test", value))


def get(data: Path) -> Any:
    return with_database(data, lambda database: database.get_meta("test"))


def everything(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def packed(data: Path, target: Path, change: Callable[[sqlite3.Connection], Any]) -> Path:
    """A backup with a right checksum, of a database that was changed by hand."""
    hub, copied = data / "hub", target.with_suffix(".db")
    snapshot.copy(hub / "hub.db", copied)
    with closing(sqlite3.connect(copied)) as database, database:
        change(database)
        database.execute("PRAGMA journal_mode=DELETE")
    parts = [copied, *(hub / name for name in backups._PUBLIC)]
    names = ["hub.db", *backups._PUBLIC]
    sizes = tuple((name, part.stat().st_size) for name, part in zip(names, parts, strict=True))
    fleet = _core.view_approved((hub / "fleet-info").read_bytes())["fleet"]
    backups._pack(target, backups.Header(fleet, SCHEMAS[-1], "now", "0", sizes), parts)
    return target


# Making one.


def test_a_backup_is_one_private_file_without_a_key(data: Path, tmp_path: Path) -> None:
    put(data, b"kept")
    target = tmp_path / "to/hub.backup"
    target.parent.mkdir()
    header = backup(data, target, now=NOW)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["hub.backup"]
    assert (header.time, header.schema) == ("2026-01-31T23:59:59Z", SCHEMAS[-1])
    content = target.read_bytes()
    assert b"kept" in content
    hub = data / "hub"
    assert (hub / "module/root.key").read_bytes() not in content
    assert (hub / "tls/key.pem").read_bytes() not in content
    assert b"vault" not in content


def test_a_backup_replaces_no_file(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "hub.backup"
    target.write_bytes(b"mine")
    with pytest.raises(BadInput, match="already"):
        backup(data, target, now=NOW)
    assert target.read_bytes() == b"mine"


def test_a_name_taken_meanwhile_is_not_replaced(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "hub.backup"
    pack = backups._pack

    def slow(*arguments: Any) -> None:
        pack(*arguments)
        target.write_bytes(b"mine")

    monkeypatch.setattr(backups, "_pack", slow)
    with pytest.raises(BadInput, match="already"):
        backup(data, target, now=NOW)
    assert target.read_bytes() == b"mine"


def test_a_file_system_without_links_is_served_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    target = tmp_path / "to/hub.backup"
    target.parent.mkdir()
    backup(data, target, now=NOW)
    assert [path.name for path in target.parent.iterdir()] == ["hub.backup"]
    pack = backups._pack

    def slow(*arguments: Any) -> None:
        pack(*arguments)
        (target.parent / "other").write_bytes(b"mine")

    monkeypatch.setattr(backups, "_pack", slow)
    with pytest.raises(BadInput, match="already"):
        backup(data, target.parent / "other", now=NOW)
    assert (target.parent / "other").read_bytes() == b"mine"


def test_a_damaged_database_is_not_backed_up(data: Path, tmp_path: Path) -> None:
    """The damage lies where nothing but the check looks: in a page of records."""
    marker = b"statement 150 " * 8

    async def fill(database: Database) -> None:
        for number in range(300):
            await database.append_record("key", f"{number}", 1, b"statement %d " % number * 8)

    with_database(data, fill)
    path = data / "hub/hub.db"
    content = bytearray(path.read_bytes())
    content[content.index(marker) // 4096 * 4096] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        backup(data, tmp_path / "hub.backup", now=NOW)
    assert not (tmp_path / "hub.backup").exists()


def test_backups_of_a_database_that_is_being_written_are_each_of_one_instant(
    data: Path, tmp_path: Path
) -> None:
    """The writer keeps two rows equal in every transaction."""
    stop, committed = threading.Event(), threading.Event()

    def write() -> None:
        commits = 0
        with closing(sqlite3.connect(data / "hub/hub.db", isolation_level=None, timeout=30)) as database:
            while not stop.is_set():
                commits += 1
                value = (b"%d " % commits) * 500
                database.execute("BEGIN IMMEDIATE")
                for name in ("left", "right"):
                    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
                database.execute("COMMIT")
                committed.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(12):
            committed.clear()
            assert committed.wait(30)
            backup(data, tmp_path / f"{number}", now=NOW)
    finally:
        stop.set()
        writer.join()
    seen = set()
    for number in range(12):
        restore(data, tmp_path / f"{number}", now=datetime.now(UTC))
        with closing(sqlite3.connect(data / "hub/hub.db")) as database:
            rows = dict(database.execute("SELECT name, value FROM meta WHERE name IN ('left', 'right')"))
        assert rows["left"] == rows["right"]
        seen.add(rows["left"])
    assert len(seen) == 12


# Putting one back.


def test_a_restored_database_is_the_one_that_was_backed_up_and_the_other_is_kept(
    data: Path, tmp_path: Path
) -> None:
    put(data, b"old")
    backup(data, tmp_path / "hub.backup", now=NOW)
    put(data, b"new")
    restored = restore(data, tmp_path / "hub.backup", now=LATER)
    assert get(data) == b"old"
    assert restored.kept == data / "hub/before-restore-20260201T000000.000000Z"
    with closing(sqlite3.connect(restored.kept / "hub.db")) as kept:
        assert kept.execute("SELECT value FROM meta WHERE name = 'test'").fetchone() == (b"new",)
    assert restored.added == ()
    assert stat.S_IMODE((data / "hub/hub.db").stat().st_mode) == 0o600
    assert not list((data / "hub").glob("restore.*"))


def test_what_a_killed_hub_left_in_the_databases_log_is_kept_with_it_and_not_mixed_in(
    data: Path, tmp_path: Path
) -> None:
    put(data, b"old")
    backup(data, tmp_path / "hub.backup", now=NOW)
    killed = sqlite3.connect(data / "hub/hub.db", isolation_level=None)
    killed.execute("UPDATE meta SET value = ? WHERE name = 'test'", (b"new",))
    assert (data / "hub/hub.db-wal").stat().st_size > 0
    restored = restore(data, tmp_path / "hub.backup", now=LATER)
    assert get(data) == b"old"
    assert restored.kept is not None
    with closing(sqlite3.connect(restored.kept / "hub.db")) as kept:
        assert kept.execute("SELECT value FROM meta WHERE name = 'test'").fetchone() == (b"new",)
    killed.close()


def test_a_missing_database_is_restored(data: Path, tmp_path: Path) -> None:
    put(data, b"old")
    backup(data, tmp_path / "hub.backup", now=NOW)
    (data / "hub/hub.db").unlink()
    assert restore(data, tmp_path / "hub.backup", now=LATER).kept is None
    assert get(data) == b"old"


def test_an_interrupted_restore_leaves_no_database_and_can_be_done_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(data, b"old")
    backup(data, tmp_path / "hub.backup", now=NOW)
    put(data, b"new")
    with monkeypatch.context() as patched:
        patched.setattr(backups, "_add", lambda *_: pytest.fail("not reached"))
        rename = Path.rename

        def crash(path: Path, target: Path) -> Path:
            if path.parent.name.startswith("restore."):
                raise KeyboardInterrupt
            return rename(path, target)

        patched.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            restore(data, tmp_path / "hub.backup", now=NOW)
    assert not (data / "hub/hub.db").exists()
    restore(data, tmp_path / "hub.backup", now=LATER)
    assert get(data) == b"old"
    (kept,) = (data / "hub").glob("before-restore-*")
    with closing(sqlite3.connect(kept / "hub.db")) as database:
        assert database.execute("SELECT value FROM meta WHERE name = 'test'").fetchone() == (b"new",)


def test_missing_files_are_put_back_and_a_new_tls_key_is_made_at_the_next_start(
    data: Path, tmp_path: Path
) -> None:
    hub = data / "hub"
    backup(data, tmp_path / "hub.backup", now=NOW)
    before = everything(hub)
    for name in ("settings.json", "tls/ca.der", "tls/roots.pem", "tls/leaf.pem", "tls/key.pem", "fleet-info"):
        (hub / name).unlink()
    (hub / "tls").rmdir()
    restored = restore(data, tmp_path / "hub.backup", now=LATER)
    assert restored.added == ("settings.json", "fleet-info", "tls/ca.der", "tls/roots.pem")
    for name in restored.added:
        assert (hub / name).read_bytes() == before[name]
    module = _core.Module.open(hub / "module")
    try:
        assert Directory.of(data).certificates.renew_when_due(module, ["localhost"], BEGAN)
    finally:
        module.close()
    assert (hub / "tls/key.pem").read_bytes() != before["tls/key.pem"]
    assert (hub / "tls/leaf.pem").exists()


def test_files_that_are_there_stay_as_they_are(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "hub.backup", now=NOW)
    settings = data / "hub/settings.json"
    changed = json.dumps(json.loads(settings.read_text()) | {"zone": "moved"})
    settings.write_text(changed)
    assert restore(data, tmp_path / "hub.backup", now=LATER).added == ()
    assert settings.read_text() == changed


# Refusals: nothing is changed.


def refused(data: Path, source: Path, error: type[Exception], match: str) -> None:
    before = everything(data)
    with pytest.raises(error, match=match):
        restore(data, source, now=LATER)
    assert everything(data) == before


def test_a_backup_is_not_restored_under_a_running_hub(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "hub.backup", now=NOW)
    module = _core.Module.open(data / "hub/module")
    try:
        refused(data, tmp_path / "hub.backup", BadInput, "runs")
    finally:
        module.close()
    restore(data, tmp_path / "hub.backup", now=LATER)


def test_a_torn_backup_is_refused_wherever_it_ends(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "hub.backup", now=NOW)
    content = (tmp_path / "hub.backup").read_bytes()
    torn = tmp_path / "torn"
    size = len(content)
    for end in (0, 1, 19, 30, 150, 400, 4096, size // 2, size - 600, size - 33, size - 32, size - 1):
        torn.write_bytes(content[:end])
        refused(data, torn, BadInput, "torn")
    torn.write_bytes(content + b"\n")
    refused(data, torn, BadInput, "checksum")


def test_an_altered_backup_is_refused_whichever_byte_it_is(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "hub.backup", now=NOW)
    content = (tmp_path / "hub.backup").read_bytes()
    altered = tmp_path / "altered"
    size = len(content)
    in_header = content.index(b'"fleet":"') + 9
    in_time = content.index(b"2026-01-31") + 3
    for at in (0, 5, in_header, in_time, 500, size // 3, size // 2, size - 700, size - 32, size - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        altered.write_bytes(changed)
        refused(data, altered, BadInput, "altered")


def test_another_fleets_backup_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    make_hub(tmp_path / "other")
    backup(tmp_path / "other", tmp_path / "other.backup", now=NOW)
    refused(data, tmp_path / "other.backup", DataDirectoryMismatch, "fleet")
    theirs = packed(
        data, tmp_path / "mixed", lambda db: db.execute("UPDATE meta SET value = x'00' WHERE name = 'fleet'")
    )
    refused(data, theirs, DataDirectoryMismatch, "a database of fleet 00")


def test_a_newer_format_is_named_and_refused(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "hub.backup", now=NOW)
    content = (tmp_path / "hub.backup").read_bytes()[:-32].replace(b'{"format":1', b'{"format":2', 1)
    (tmp_path / "newer").write_bytes(content + hashlib.sha256(content).digest())
    refused(data, tmp_path / "newer", NewerFormat, "newer Quorate.*format 2")


def test_a_newer_schema_is_named_and_refused(data: Path, tmp_path: Path) -> None:
    newer = packed(
        data, tmp_path / "newer", lambda db: db.execute("UPDATE alembic_version SET version_num = '9999'")
    )
    refused(data, newer, NewerFormat, "schema 9999")


def test_names_that_lead_elsewhere_are_refused(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "hub.backup", now=NOW)
    content = (tmp_path / "hub.backup").read_bytes()[:-32].replace(b'"settings.json"', b'"../tings.json"', 1)
    (tmp_path / "foreign").write_bytes(content + hashlib.sha256(content).digest())
    refused(data, tmp_path / "foreign", BadInput, "header")
    assert not (data / "tings.json").exists()


def test_a_directory_without_a_module_is_refused(data: Path, tmp_path: Path) -> None:
    backup(data, tmp_path / "hub.backup", now=NOW)
    (data / "hub/module").rename(tmp_path / "module")
    refused(data, tmp_path / "hub.backup", BadInput, "no hub's module")
