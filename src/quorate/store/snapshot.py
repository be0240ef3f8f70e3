"""Copies of the hub's database: taken while the hub writes, examined before one is trusted.

Here: SQLite's online backup, what a database file says of itself. Not here: which other files go with a copy,
where it goes.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from quorate.errors import BadInput
from quorate.store.database import check_schema

_LOCKED_SECONDS = 30.0
"""How long a hub that is just starting or stopping may keep the file locked."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a database is of: the fleet's id, and the name of its schema."""

    fleet: bytes
    schema: str


def copy(source: Path, target: Path) -> None:
    """Copies the database at `source` as of one instant; whoever writes to it is not held up.

    All pages in one step: that is one read transaction of a database in WAL mode, so what commits meanwhile is
    not in the copy, and nothing starts again. Raises `BadInput`.
    """
    try:
        with closing(_read_only(source)) as here, closing(sqlite3.connect(target)) as there:
            here.backup(there)
    except sqlite3.Error as why:
        raise BadInput(
            f"{source} cannot be copied: {why}", remedy="look at the disk, and at the hub's log"
        ) from why


def examine(path: Path) -> Snapshot:
    """Reads all of a database that nobody has open. Raises `BadInput` for a damaged one, `NewerFormat`."""
    try:
        with closing(_read_only(path, "&immutable=1")) as database:
            found = [str(row[0]) for row in database.execute("PRAGMA integrity_check(1)")]
            if found != ["ok"]:
                raise BadInput(f"the database is damaged: {found[0]}", remedy="use another backup")
            (schema,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
            check_schema(path, schema)
            (fleet,) = database.execute("SELECT value FROM meta WHERE name = 'fleet'").fetchone()
            return Snapshot(bytes(fleet), str(schema))
    except (sqlite3.Error, TypeError) as why:
        raise BadInput(f"this is no database of a hub: {why}", remedy="use another backup") from why


def _read_only(path: Path, more: str = "") -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{more}", uri=True, timeout=_LOCKED_SECONDS)
