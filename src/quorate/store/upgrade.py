"""A database brought to this version's schema, by Alembic.

Here: all that knows Alembic. `database` loads it only for a database that is not current: it takes 10 MiB of a
process's memory. Not here: the steps (`migrations`), and when.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> None:
    """Within the transaction of `connection`."""
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config
