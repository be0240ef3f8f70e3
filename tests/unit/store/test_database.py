"""The hub's database: what it refuses, what a crash or a full disk leaves, versions and tokens."""

import asyncio
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command, op
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from quorate import _core
from quorate.errors import BadInput, DataDirectoryMismatch, NewerFormat, StorageFailed
from quorate.store.database import (
    SPENT_SECONDS,
    AttemptRow,
    Conflict,
    Database,
    Spent,
    TokenUsed,
    current_epochs,
    highest_epochs,
)
from quorate.store.schema import SCHEMAS
from quorate.store.upgrade import configuration

FLEET = b"f" * 16
TOKEN, OTHER_TOKEN = b"t" * 16, b"u" * 16


def with_database(path: Path, work: Callable[[Database], Awaitable[None]]) -> None:
    """Opens the database at `path`, does `work`, closes it."""

    async def main() -> None:
        database = await Database.open(path, FLEET)
        try:
            await work(database)
        finally:
            await database.close()

    asyncio.run(main())


async def nothing(_: Database) -> None:
    """For what happens at opening."""


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


# Opening.


def test_empty_directory_gets_a_private_database_in_wal_mode(path: Path) -> None:
    with_database(path, nothing)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with sqlite3.connect(path) as plain:
        tables = {name for (name,) in plain.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    plain.close()
    assert {
        "meta", "tokens", "enrolments", "records", "spent", "attempts", "erasures", "domains",
    } <= tables  # fmt: skip


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    async def write(database: Database) -> None:
        await database.append_record("alias", "alias/a", 1, b"one")

    async def read(database: Database) -> None:
        assert [(r.sequence, r.statement) for r in await database.records(0, 10)] == [(1, b"one")]

    with_database(path, write)
    with_database(path, read)


def test_database_of_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    with_database(path, nothing)
    with sqlite3.connect(path) as plain:
        plain.execute("UPDATE alembic_version SET version_num = '9999'")
    plain.close()
    with pytest.raises(NewerFormat, match="newer Quorate"):
        with_database(path, nothing)
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    plain.close()


def test_a_term_is_above_every_earlier_one_and_above_what_the_module_knows(path: Path) -> None:
    async def work(database: Database) -> None:
        assert await database.raise_term() == 1
        assert await database.raise_term(at_least=7) == 7
        assert await database.raise_term(at_least=3) == 8

    with_database(path, work)


def test_database_of_another_fleet_is_refused(path: Path) -> None:
    with_database(path, nothing)

    async def main() -> None:
        await Database.open(path, b"g" * 16)

    with pytest.raises(DataDirectoryMismatch):
        asyncio.run(main())


@pytest.mark.parametrize("content", [b"no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"hub\.db cannot be used"):
        with_database(path, nothing)
    assert path.read_bytes() == content


def test_crash_within_a_migration_leaves_a_database_that_opens(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = op.create_table

    def cut_short(name: str, *columns: object, **options: object) -> object:
        if name == "records":
            raise RuntimeError("the power went")
        return create(name, *columns, **options)

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_table", cut_short)
        with pytest.raises(RuntimeError, match="the power went"):
            with_database(path, nothing)
    with_database(path, nothing)


# Failed writes (attack N47: what could not be written is not acknowledged, and the process must stop).


def test_n47_failed_write_is_refused_and_ends_all_writing(path: Path) -> None:
    async def work(database: Database) -> None:
        await database.append_record("alias", "alias/a", 1, b"one")
        assert not database.failed.done()
        with disk_full_at(16 * 1024), pytest.raises(StorageFailed):
            await database.append_record("alias", "alias/b", 1, b"two" * 100_000)
        assert isinstance(database.failed.result(), StorageFailed)
        with pytest.raises(StorageFailed):  # though the disk has room again
            await database.append_record("alias", "alias/c", 1, b"three")

    async def read(database: Database) -> None:
        assert [r.name for r in await database.records(0, 10)] == ["alias/a"]

    with_database(path, work)
    with_database(path, read)


def test_full_disk_at_opening_is_not_called_damage(path: Path) -> None:
    with disk_full_at(8 * 1024), pytest.raises(StorageFailed):
        with_database(path, nothing)
    with_database(path, nothing)


def test_conflict_and_spent_do_not_count_as_failed_writes(path: Path) -> None:
    async def work(database: Database) -> None:
        await database.append_record("alias", "alias/a", 1, b"one", spend="sig", now=0)
        with pytest.raises(Conflict):
            await database.append_record("alias", "alias/a", 1, b"other")
        with pytest.raises(Spent):
            await database.append_record("alias", "alias/b", 1, b"two", spend="sig", now=0)
        await database.add_token(TOKEN, "a", b"token")
        with pytest.raises(Conflict):
            await database.add_token(TOKEN, "a", b"another token")
        assert not database.failed.done()

    with_database(path, work)


# Records.


def test_records_are_numbered_in_order_and_a_repeat_keeps_its_number(path: Path) -> None:
    async def work(database: Database) -> None:
        numbers = [
            await database.append_record("key", "k", 1, b"k1"),
            await database.append_record("alias", "k", 1, b"a1"),
            await database.append_record("key", "k", 2, b"k2"),
            await database.append_record("key", "k", 1, b"k1"),
        ]
        assert numbers == [1, 2, 3, 1]
        assert await database.last_sequence() == 3
        assert [r.sequence for r in await database.records(1, 10)] == [2, 3]
        assert [r.sequence for r in await database.records(0, 2)] == [1, 2]

    with_database(path, work)


def test_taken_version_is_refused_and_spends_nothing(path: Path) -> None:
    async def work(database: Database) -> None:
        await database.append_record("key", "k", 1, b"k1")
        with pytest.raises(Conflict):
            await database.append_record("key", "k", 1, b"other", spend="sig", now=0)
        assert not await database.is_spent("sig")
        assert await database.last_sequence() == 1

    with_database(path, work)


def test_current_and_newest_are_the_highest_versions(path: Path) -> None:
    async def work(database: Database) -> None:
        for name, version in (("b", 1), ("a", 1), ("b", 2), ("a", 2), ("a", 3)):
            await database.append_record("key", name, version, f"{name}{version}".encode())
        await database.append_record("alias", "a", 9, b"of another kind")
        assert [r.statement for r in await database.newest("key")] == [b"a3", b"b2"]
        current = await database.current("key", "b")
        assert current is not None
        assert (current.version, current.statement) == (2, b"b2")
        assert await database.current("key", "c") is None

    with_database(path, work)


def test_n75_signature_is_spent_once_for_ten_minutes(path: Path) -> None:
    async def work(database: Database) -> None:
        await database.append_record("key", "a", 1, b"a", spend="sig", now=1000)
        assert await database.is_spent("sig")
        with pytest.raises(Spent):
            await database.append_record("key", "b", 1, b"b", spend="sig", now=1000 + SPENT_SECONDS)
        assert await database.current("key", "b") is None
        await database.append_record("key", "b", 1, b"b", spend="sig", now=1001 + SPENT_SECONDS)

    with_database(path, work)


def test_writers_at_once_all_succeed(path: Path) -> None:
    async def work(database: Database) -> None:
        numbers = await asyncio.gather(
            *(database.append_record("key", f"k{i}", 1, b"k", spend=f"s{i}", now=0) for i in range(20)),
            *(database.append_record("alias", f"a{i}", 1, b"a") for i in range(20)),
        )
        assert sorted(numbers) == list(range(1, 41))
        terms = await asyncio.gather(*(database.raise_term() for _ in range(5)))
        assert sorted(terms) == [1, 2, 3, 4, 5]

    with_database(path, work)


# Terms, tokens, attempts.


def test_term_is_higher_after_each_start(path: Path) -> None:
    seen: list[int] = []

    async def raise_it(database: Database) -> None:
        seen.append(await database.raise_term())

    for _ in range(3):
        with_database(path, raise_it)
    assert seen == [1, 2, 3]


def test_n64_token_takes_one_request_for_good(path: Path) -> None:
    async def work(database: Database) -> None:
        await database.add_token(TOKEN, "a", b"token")
        first = await database.ask(TOKEN, "a", b"request", b"p" * 32, 1)
        again = await database.ask(TOKEN, "a", b"request", b"p" * 32, 2)
        assert first == again
        for other in (b"another request", b"request "):
            with pytest.raises(TokenUsed):
                await database.ask(TOKEN, "a", other, b"q" * 32, 3)
        kept = await database.enrolment(TOKEN)
        assert kept == first

    async def later(database: Database) -> None:
        with pytest.raises(TokenUsed):
            await database.ask(TOKEN, "a", b"another request", b"q" * 32, 4)

    with_database(path, work)
    with_database(path, later)


def test_n64_of_two_requests_at_once_one_gets_the_token(path: Path) -> None:
    async def work(database: Database) -> None:
        await database.add_token(TOKEN, "a", b"token")
        outcomes = await asyncio.gather(
            *(database.ask(TOKEN, "a", bytes([i]), b"p" * 32, 1) for i in range(8)), return_exceptions=True
        )
        assert sum(isinstance(outcome, TokenUsed) for outcome in outcomes) == 7
        kept = await database.enrolment(TOKEN)
        assert kept in outcomes

    with_database(path, work)


def test_n64_unknown_token_takes_no_request(path: Path) -> None:
    async def work(database: Database) -> None:
        with pytest.raises(TokenUsed):
            await database.ask(OTHER_TOKEN, "a", b"request", b"p" * 32, 1)
        assert await database.enrolments() == []

    with_database(path, work)


def test_approved_request_is_pending_no_more(path: Path) -> None:
    async def work(database: Database) -> None:
        for token in (TOKEN, OTHER_TOKEN):
            await database.add_token(token, "a", token)
            await database.ask(token, "a", token, b"p" * 32, 1)
        await database.approve(TOKEN, b"entry", b"authority")
        assert [e.token_id for e in await database.pending("a")] == [OTHER_TOKEN]
        granted = await database.enrolment(TOKEN)
        assert granted is not None
        assert (granted.entry, granted.authority) == (b"entry", b"authority")

    with_database(path, work)


def test_attempts_keep_what_a_later_phase_does_not_name(path: Path) -> None:
    async def work(database: Database) -> None:
        await database.put_attempt("d", 1, phase="planned", plan=b"p1", charter=b"c", reason="")
        await database.put_attempt("d", 1, phase="aborted", reason="no keys")
        await database.put_attempt("d", 2, phase="planned", plan=b"p2", charter=b"c", reason="")
        await database.put_attempt("d", 2, phase="committed", configuration=b"conf", receipts=b"r")
        await database.put_attempt("e", 1, phase="planned", plan=b"p3", charter=b"c", reason="")
        rows = await database.attempts()
        assert [(r.domain, r.epoch, r.phase, r.plan) for r in rows] == [
            ("d", 1, "aborted", b"p1"),
            ("d", 2, "committed", b"p2"),
            ("e", 1, "planned", b"p3"),
        ]
        assert highest_epochs(rows) == {"d": 2, "e": 1}
        assert {domain: row.epoch for domain, row in current_epochs(rows).items()} == {"d": 2}

    with_database(path, work)


def test_committed_epochs_are_those_above_one_in_order(path: Path) -> None:
    async def work(database: Database) -> None:
        phases = {1: "closed", 2: "aborted", 3: "committed", 4: "closed", 5: "dealt"}
        for epoch in (4, 1, 5, 3, 2):
            row = {"phase": phases[epoch], "plan": b"p", "charter": b"c", "reason": "", "at": epoch}
            await database.put_attempt("d", epoch, **row)
        await database.put_attempt("e", 9, phase="closed", plan=b"p", charter=b"c", reason="", at=9)
        for above, wanted in ((0, [1, 3, 4]), (1, [3, 4]), (3, [4]), (4, [])):
            assert [(r.epoch, r.at) for r in await database.committed_after("d", above)] == [
                (epoch, epoch) for epoch in wanted
            ]

    with_database(path, work)


def test_last_erasure_of_each_node_is_kept(path: Path) -> None:
    async def write(database: Database) -> None:
        assert await database.erasures() == {}
        await database.put_erasure("d", "a", 2, b"below 2")
        await database.put_erasure("d", "b", 2, b"below 2")
        await database.put_erasure("e", "a", 7, b"below 7")
        await database.put_erasure("d", "a", 4, b"below 4")

    async def read(database: Database) -> None:
        assert await database.erasures() == {"d": {"a": 4, "b": 2}, "e": {"a": 7}}

    with_database(path, write)
    with_database(path, read)
    with sqlite3.connect(path) as plain:
        found = plain.execute("SELECT statement FROM erasures WHERE domain = 'd' AND node = 'a'").fetchall()
    plain.close()
    assert found == [(b"below 4",)]


def test_interval_that_was_set_last_is_kept(path: Path) -> None:
    async def write(database: Database) -> None:
        assert await database.refresh_every() == {}
        await database.put_refresh_every("d", 3600)
        await database.put_refresh_every("e", 60)
        await database.put_refresh_every("d", 0)

    async def read(database: Database) -> None:
        assert await database.refresh_every() == {"d": 0, "e": 60}

    with_database(path, write)
    with_database(path, read)


# Schemas.


FIRST_SCHEMA: list[tuple[str, int, str, bytes | None, bytes | None, bytes | None]] = [
    ("d", 1, "aborted", None, None, None),
    ("d", 2, "closed", b"dealing 2", None, _core.encode([b"r1", b"r2"])),
    ("d", 3, "dealt", b"dealing 3", _core.encode([b"s1", b"s2", b"s3"]), None),
]
"""Attempts as the first schema had them: domain, epoch, phase, dealing, sealed, receipts."""


def with_first_schema(path: Path) -> None:
    """A database that the first version has left."""
    engine = create_engine(f"sqlite:///{path}")
    settings = configuration()
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
        connection.execute(text("INSERT INTO meta VALUES ('fleet', :fleet)"), {"fleet": FLEET})
        for domain, epoch, phase, dealing, sealed, receipts in FIRST_SCHEMA:
            row = {
                "domain": domain, "epoch": epoch, "phase": phase, "plan": b"plan %d" % epoch,
                "charter": b"charter", "dealing": dealing, "sealed": sealed,
                "configuration": b"conf %d" % epoch if dealing else None, "receipts": receipts, "reason": "why",
            }  # fmt: skip
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO attempts ({names}) VALUES ({values})"), row)
    engine.dispose()


def test_attempts_of_the_first_schema_have_one_dealing_each(path: Path) -> None:
    with_first_schema(path)

    async def work(database: Database) -> None:
        aborted, closed, dealt = await database.attempts()
        assert aborted == AttemptRow(
            "d", 1, "aborted", b"plan 1", b"charter", None, None, None, None, "why", aborted.at
        )
        assert closed == AttemptRow(
            "d", 2, "closed", b"plan 2", b"charter", _core.encode([b"dealing 2"]), None, b"conf 2",
            _core.encode([b"r1", b"r2"]), "why", closed.at,
        )  # fmt: skip
        assert dealt == AttemptRow(
            "d", 3, "dealt", b"plan 3", b"charter", _core.encode([b"dealing 3"]),
            _core.encode([[b"s1", b"s2", b"s3"]]), b"conf 3", None, "why", dealt.at,
        )  # fmt: skip
        assert (await database.erasures(), await database.refresh_every()) == ({}, {})
        assert [row.epoch for row in await database.committed_after("d", 0)] == [2]

    with_database(path, work)
    with_database(path, work)  # once


def test_crash_within_the_second_migration_leaves_the_first_schema(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_first_schema(path)

    def cut_short(*_: object, **__: object) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_table", cut_short)  # after the attempts were changed
        with pytest.raises(RuntimeError, match="the power went"):
            with_database(path, nothing)
    with sqlite3.connect(path) as plain:
        found = plain.execute("SELECT epoch, dealing FROM attempts").fetchall()
        version = plain.execute("SELECT version_num FROM alembic_version").fetchall()
    plain.close()
    assert found == [(1, None), (2, b"dealing 2"), (3, b"dealing 3")]
    assert version == [("0001",)]

    async def work(database: Database) -> None:
        assert [row.dealings for row in await database.attempts()] == [
            None, _core.encode([b"dealing 2"]), _core.encode([b"dealing 3"]),
        ]  # fmt: skip

    with_database(path, work)


def test_the_schemas_known_are_those_of_the_migrations() -> None:
    steps = [step.revision for step in ScriptDirectory.from_config(configuration()).walk_revisions()]
    assert tuple(reversed(steps)) == SCHEMAS


def test_a_current_database_is_opened_without_alembic(path: Path) -> None:
    with_database(path, nothing)
    program = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom quorate.store.database import Database\n"
        f"async def main() -> None:\n    await (await Database.open(Path({str(path)!r}), {FLEET!r})).close()\n"
        "asyncio.run(main())\nassert not any(name.startswith('alembic') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
