"""The hub's database: one method for each transaction; what one returns from is durable.

Here: SQL, durability, migrations at opening. Not here: what a statement means, who may write it.

SQLite in WAL mode with `synchronous=FULL`: each commit is synced before it returns. The hub is its only writer,
so a write that fails is final, like a failed line of the audit log: what was not synced may be lost, and the
module may know a record that has no place in the order. The process must stop; opening mends it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, event, func, insert, inspect, select, text, update
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from quorate.errors import BadInput, DataDirectoryMismatch, NewerFormat, StorageFailed
from quorate.store.schema import (
    SCHEMAS,
    attempts,
    domains,
    drops,
    enrolments,
    erasures,
    fleet_receipts,
    fleet_rotations,
    meta,
    records,
    rotate_every,
    rotations,
    spent,
    tokens,
)

SPENT_SECONDS = 600
"""How long a request's signature is remembered."""


class TokenUsed(Exception):
    """Another request has used this token."""


class Conflict(Exception):
    """Something else is there by this name: a token's id, a record's version."""


class Spent(Exception):
    """This request was carried out before."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One request for a place. `since`: unix seconds; `entry` and `authority` once it is approved."""

    token_id: bytes
    node: str
    request: bytes
    fingerprint: bytes
    since: int
    entry: bytes | None
    authority: bytes | None


@dataclass(frozen=True, slots=True)
class Record:
    sequence: int
    kind: str
    name: str
    version: int
    statement: bytes


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """`dealings` and `receipts` are encoded lists of byte strings, `sealed` one of such lists; `at`: unix seconds of
    the commit.
    """

    domain: str
    epoch: int
    phase: str
    plan: bytes
    charter: bytes
    dealings: bytes | None
    sealed: bytes | None
    configuration: bytes | None
    receipts: bytes | None
    reason: str
    at: int | None


@dataclass(frozen=True, slots=True)
class RotationRow:
    """`at`: unix seconds of its beginning."""

    domain: str
    version: int
    phase: str
    at: int


@dataclass(frozen=True, slots=True)
class FleetRotationRow:
    """`ends`: unix seconds."""

    fleet_epoch: int
    phase: str
    ends: int


class Database:
    """`failed` is done, with the error, once a write has failed: the process must stop then."""

    def __init__(self, engine: AsyncEngine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self.failed: asyncio.Future[StorageFailed] = asyncio.get_running_loop().create_future()
        self._turn = asyncio.Lock()  # SQLite has one writer; a second would fail, not wait, once it has read

    @classmethod
    async def open(cls, path: Path, fleet: bytes) -> "Database":
        """Opens or makes the database at `path`, and brings it to this version's schema.

        Raises `BadInput` for a file that is no database, `NewerFormat`, `DataDirectoryMismatch` for another
        fleet's, `StorageFailed` when the disk refuses. A crash leaves the schema before or after.
        """
        if not path.exists():
            path.touch(mode=0o600)
        # Last in, first out: transactions one after another use one connection, and its thread.
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_use_lifo=True)
        event.listen(engine.sync_engine, "connect", _on_connect)
        event.listen(engine.sync_engine, "begin", _on_begin)
        database = cls(engine, path)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(database._migrate)
            known = await database.get_meta("fleet")
            if known is None:
                await database.put_meta("fleet", fleet)
            elif known != fleet:
                raise DataDirectoryMismatch(path, found=f"fleet {known.hex()}", wanted=f"fleet {fleet.hex()}")
        except DatabaseError as why:
            await database.close()
            if _is_of_the_disk(why):
                raise StorageFailed(path, str(why.orig)) from why
            reason = why.orig if isinstance(why, OperationalError) else "it is damaged, or no database"
            raise BadInput(
                f"{path} cannot be used: {reason}",
                remedy="restore it from a backup (`quorate hub restore FILE`)",
            ) from why
        except BaseException:
            await database.close()
            raise
        return database

    def _migrate(self, connection: Connection) -> None:
        found = None
        if inspect(connection).has_table("alembic_version"):
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        check_schema(self._path, found)
        if found != SCHEMAS[-1]:
            from quorate.store.upgrade import upgrade

            upgrade(connection)

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """One transaction, durable when this ends. Raises `StorageFailed`, after which nothing is written."""
        if self.failed.done():
            raise self.failed.result()
        try:
            async with self._turn, self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except DatabaseError as why:
            failure = StorageFailed(self._path, str(why.orig))
            if not self.failed.done():
                self.failed.set_result(failure)
            raise failure from why

    # Small facts.

    async def get_meta(self, name: str) -> bytes | None:
        async with self._engine.connect() as connection:
            found = await connection.scalar(select(meta.c.value).where(meta.c.name == name))
            return None if found is None else bytes(found)

    async def put_meta(self, name: str, value: bytes) -> None:
        async with self._writing() as connection:
            await connection.execute(delete(meta).where(meta.c.name == name))
            await connection.execute(insert(meta).values(name=name, value=value))

    async def raise_term(self, at_least: int = 1) -> int:
        """A term above every earlier one; returns it. `at_least`: for a database that does not know the last ones."""
        async with self._writing() as connection:
            found = await connection.scalar(select(meta.c.value).where(meta.c.name == "term"))
            term = max(int.from_bytes(found or b"") + 1, at_least)
            await connection.execute(delete(meta).where(meta.c.name == "term"))
            await connection.execute(insert(meta).values(name="term", value=term.to_bytes(8)))
            return term

    # Enrolment.

    async def add_token(self, token_id: bytes, node: str, token: bytes) -> None:
        """The same token again is fine. Raises `Conflict` for another one with its id."""
        try:
            async with self._writing() as connection:
                await connection.execute(insert(tokens).values(id=token_id, node=node, token=token))
        except IntegrityError as why:
            if await self.token(token_id) != token:
                raise Conflict from why

    async def token(self, token_id: bytes) -> bytes | None:
        async with self._engine.connect() as connection:
            found = await connection.scalar(select(tokens.c.token).where(tokens.c.id == token_id))
            return None if found is None else bytes(found)

    async def ask(
        self, token_id: bytes, node: str, request: bytes, fingerprint: bytes, since: int
    ) -> Enrolment:
        """Binds the token to this request, once and for all. Raises `TokenUsed` for another request."""
        row = {
            "token_id": token_id,
            "node": node,
            "request": request,
            "fingerprint": fingerprint,
            "since": since,
        }
        try:
            async with self._writing() as connection:
                await connection.execute(insert(enrolments).values(**row))
        except IntegrityError:
            pass  # asked before; the same request only
        known = await self.enrolment(token_id)
        if known is None or known.request != request:
            raise TokenUsed
        return known

    async def enrolment(self, token_id: bytes) -> Enrolment | None:
        found = await self._enrolments(enrolments.c.token_id == token_id)
        return found[0] if found else None

    async def pending(self, node: str) -> list[Enrolment]:
        """Requests for the place `node` that wait for the operator, newest last."""
        return await self._enrolments(enrolments.c.node == node, enrolments.c.entry.is_(None))

    async def enrolments(self) -> list[Enrolment]:
        return await self._enrolments()

    async def _enrolments(self, *where: Any) -> list[Enrolment]:
        async with self._engine.connect() as connection:
            query = select(enrolments).where(*where).order_by(enrolments.c.since)
            return [Enrolment(**row._mapping) for row in await connection.execute(query)]

    async def approve(self, token_id: bytes, entry: bytes, authority: bytes) -> None:
        async with self._writing() as connection:
            change = update(enrolments).where(enrolments.c.token_id == token_id)
            await connection.execute(change.values(entry=entry, authority=authority))

    # Records.

    async def append_record(
        self, kind: str, name: str, version: int, statement: bytes, *, spend: str = "", now: int = 0
    ) -> int:
        """Gives a record the next sequence number, and spends a request's signature with it.

        The same record again keeps its number. Raises `Conflict` for a version that is there with other
        content, `Spent`; then nothing was written. `now`: unix seconds.
        """
        async with self._writing() as connection:
            if spend:
                await connection.execute(delete(spent).where(spent.c.at < now - SPENT_SECONDS))
                if await connection.scalar(select(spent.c.token).where(spent.c.token == spend)) is not None:
                    raise Spent
                await connection.execute(insert(spent).values(token=spend, at=now))
            same = select(records).where(
                records.c.kind == kind, records.c.name == name, records.c.version == version
            )
            if (known := (await connection.execute(same)).first()) is not None:
                if bytes(known.statement) != statement:
                    raise Conflict
                return int(known.sequence)
            last = await connection.scalar(select(func.max(records.c.sequence)))
            sequence = (last or 0) + 1
            row = {
                "sequence": sequence,
                "kind": kind,
                "name": name,
                "version": version,
                "statement": statement,
            }
            await connection.execute(insert(records).values(**row))
            return sequence

    async def is_spent(self, token: str) -> bool:
        async with self._engine.connect() as connection:
            return await connection.scalar(select(spent.c.token).where(spent.c.token == token)) is not None

    async def current(self, kind: str, name: str) -> Record | None:
        """The newest version of one record."""
        async with self._engine.connect() as connection:
            query = select(records).where(records.c.kind == kind, records.c.name == name)
            found = (await connection.execute(query.order_by(records.c.version.desc()).limit(1))).first()
            return None if found is None else Record(**found._mapping)

    async def last_sequence(self) -> int:
        async with self._engine.connect() as connection:
            return await connection.scalar(select(func.max(records.c.sequence))) or 0

    async def records(self, after: int, limit: int) -> list[Record]:
        """In order, from `after` (exclusive)."""
        async with self._engine.connect() as connection:
            query = (
                select(records).where(records.c.sequence > after).order_by(records.c.sequence).limit(limit)
            )
            return [Record(**row._mapping) for row in await connection.execute(query)]

    async def newest(self, kind: str) -> list[Record]:
        """The newest version of every record of a kind, by name."""
        async with self._engine.connect() as connection:
            query = select(records).where(records.c.kind == kind).order_by(records.c.version)
            found = {row.name: Record(**row._mapping) for row in await connection.execute(query)}
        return [found[name] for name in sorted(found)]

    # Epochs.

    async def put_attempt(self, domain: str, epoch: int, **columns: object) -> None:
        """Inserts the attempt, or changes the columns given."""
        async with self._writing() as connection:
            here = (attempts.c.domain == domain) & (attempts.c.epoch == epoch)
            changed = await connection.execute(update(attempts).where(here).values(**columns))
            if not changed.rowcount:
                await connection.execute(insert(attempts).values(domain=domain, epoch=epoch, **columns))

    async def forget_attempts(self, domain: str, below: int, keep: Sequence[int]) -> None:
        """Removes what is over of a domain's attempts under numbers below `below`, but for those in `keep`."""
        async with self._writing() as connection:
            over = attempts.c.phase.in_(("committed", "closed", "aborted"))
            here = (attempts.c.domain == domain) & (attempts.c.epoch < below) & over
            await connection.execute(delete(attempts).where(here, attempts.c.epoch.not_in(keep)))

    async def attempts(self) -> list[AttemptRow]:
        """All of them, each domain's in the order of their epochs."""
        return await self._attempts()

    async def committed_after(self, domain: str, epoch: int) -> list[AttemptRow]:
        """The committed epochs of a domain above `epoch`, in order."""
        return await self._attempts(
            attempts.c.domain == domain,
            attempts.c.epoch > epoch,
            attempts.c.phase.in_(("committed", "closed")),
        )

    async def _attempts(self, *where: Any) -> list[AttemptRow]:
        async with self._engine.connect() as connection:
            query = select(attempts).where(*where).order_by(attempts.c.domain, attempts.c.epoch)
            return [AttemptRow(**row._mapping) for row in await connection.execute(query)]

    async def put_erasure(self, domain: str, node: str, below: int, statement: bytes) -> None:
        async with self._writing() as connection:
            here = (erasures.c.domain == domain) & (erasures.c.node == node)
            await connection.execute(delete(erasures).where(here))
            values = {"domain": domain, "node": node, "below": below, "statement": statement}
            await connection.execute(insert(erasures).values(**values))

    async def erasures(self) -> dict[str, dict[str, int]]:
        """By domain and node: below which epoch nothing is left."""
        found: dict[str, dict[str, int]] = {}
        async with self._engine.connect() as connection:
            query = select(erasures.c.domain, erasures.c.node, erasures.c.below)
            for domain, node, below in await connection.execute(query):
                found.setdefault(domain, {})[node] = below
        return found

    async def put_refresh_every(self, domain: str, seconds: int) -> None:
        async with self._writing() as connection:
            await connection.execute(delete(domains).where(domains.c.domain == domain))
            await connection.execute(insert(domains).values(domain=domain, refresh_every=seconds))

    async def refresh_every(self) -> dict[str, int]:
        """Seconds, by domain, where it was set."""
        async with self._engine.connect() as connection:
            query = select(domains.c.domain, domains.c.refresh_every)
            return {row.domain: row.refresh_every for row in await connection.execute(query)}

    # Key versions.

    async def put_rotate_every(self, domain: str, seconds: int) -> None:
        async with self._writing() as connection:
            await connection.execute(delete(rotate_every).where(rotate_every.c.domain == domain))
            await connection.execute(insert(rotate_every).values(domain=domain, seconds=seconds))

    async def rotate_every(self) -> dict[str, int]:
        """Seconds, by domain, where it was set."""
        async with self._engine.connect() as connection:
            query = select(rotate_every.c.domain, rotate_every.c.seconds)
            return {row.domain: row.seconds for row in await connection.execute(query)}

    async def put_rotation(self, domain: str, version: int, phase: str, at: int) -> None:
        """`at`: unix seconds of its beginning."""
        async with self._writing() as connection:
            here = (rotations.c.domain == domain) & (rotations.c.version == version)
            await connection.execute(delete(rotations).where(here))
            row = {"domain": domain, "version": version, "phase": phase, "at": at}
            await connection.execute(insert(rotations).values(**row))

    async def rotations(self) -> list[RotationRow]:
        """All of them, each domain's in order."""
        async with self._engine.connect() as connection:
            query = select(rotations).order_by(rotations.c.domain, rotations.c.version)
            return [RotationRow(**row._mapping) for row in await connection.execute(query)]

    async def put_drop(self, domain: str, node: str, version: int, statement: bytes) -> None:
        async with self._writing() as connection:
            here = (drops.c.domain == domain) & (drops.c.node == node)
            await connection.execute(delete(drops).where(here))
            values = {"domain": domain, "node": node, "version": version, "statement": statement}
            await connection.execute(insert(drops).values(**values))

    async def drops(self) -> dict[str, dict[str, int]]:
        """By domain and node: up to which key version nothing is left."""
        found: dict[str, dict[str, int]] = {}
        async with self._engine.connect() as connection:
            query = select(drops.c.domain, drops.c.node, drops.c.version)
            for domain, node, version in await connection.execute(query):
                found.setdefault(domain, {})[node] = version
        return found

    # The fleet key.

    async def put_fleet_rotation(self, fleet_epoch: int, phase: str, ends: int) -> FleetRotationRow:
        """Inserts the rotation, or changes it."""
        row = FleetRotationRow(fleet_epoch, str(phase), ends)
        async with self._writing() as connection:
            await connection.execute(
                delete(fleet_rotations).where(fleet_rotations.c.fleet_epoch == fleet_epoch)
            )
            await connection.execute(insert(fleet_rotations).values(**asdict(row)))
        return row

    async def fleet_rotation(self) -> FleetRotationRow | None:
        """The last one."""
        async with self._engine.connect() as connection:
            query = select(fleet_rotations).order_by(fleet_rotations.c.fleet_epoch.desc()).limit(1)
            found = (await connection.execute(query)).first()
            return None if found is None else FleetRotationRow(**found._mapping)

    async def put_fleet_receipt(self, fleet_epoch: int, node: str, kind: str, statement: bytes) -> None:
        """The first one stands."""
        row = {"fleet_epoch": fleet_epoch, "node": node, "kind": kind, "statement": statement}
        with suppress(IntegrityError):
            async with self._writing() as connection:
                await connection.execute(insert(fleet_receipts).values(**row))

    async def fleet_receipts(self, fleet_epoch: int) -> list[tuple[str, str, bytes]]:
        """(node, kind, statement) of each."""
        async with self._engine.connect() as connection:
            query = select(fleet_receipts).where(fleet_receipts.c.fleet_epoch == fleet_epoch)
            return [(row.node, row.kind, bytes(row.statement)) for row in await connection.execute(query)]


def check_schema(path: Path, found: str | None) -> None:
    """Raises `NewerFormat` for a schema that this build does not know; None, of an empty file, is fine."""
    if found is not None and found not in SCHEMAS:
        raise NewerFormat(path, found=f"schema {found}", reads=f"schema {SCHEMAS[-1]}")


def _on_connect(connection: Any, _record: object) -> None:
    # The driver would begin transactions by itself, but not for DDL: a crash would leave half a migration.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _is_of_the_disk(why: DatabaseError) -> bool:
    """Whether the file may be sound, and its disk is full, broken or read-only."""
    name = str(getattr(why.orig, "sqlite_errorname", ""))
    return name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY"))


def highest_epochs(rows: Iterable[AttemptRow]) -> dict[str, int]:
    """The highest number that each domain has burnt."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.domain] = max(found.get(row.domain, 0), row.epoch)
    return found


def current_epochs(rows: Sequence[AttemptRow]) -> dict[str, AttemptRow]:
    """The committed epoch of each domain that has one."""
    return {row.domain: row for row in rows if row.phase in ("committed", "closed")}
