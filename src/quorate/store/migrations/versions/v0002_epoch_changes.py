"""Epoch changes: several dealings to an attempt, when it was committed, who has erased what, refresh intervals.

An attempt of the first schema had one dealing, by the hub, and did not say when it was committed: its age counts from
now.
"""

import time

import sqlalchemy as sa
from alembic import op

from quorate import _core

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("dealings", sa.LargeBinary))
    op.add_column("attempts", sa.Column("at", sa.BigInteger))
    connection = op.get_bind()
    query = sa.text("SELECT domain, epoch, dealing, sealed FROM attempts WHERE dealing IS NOT NULL")
    for domain, epoch, dealing, sealed in connection.execute(query).fetchall():
        values = {
            "domain": domain,
            "epoch": epoch,
            "dealings": _core.encode([bytes(dealing)]),
            "sealed": None if sealed is None else _core.encode([_core.decode(bytes(sealed))]),
        }
        change = (
            "UPDATE attempts SET dealings=:dealings, sealed=:sealed WHERE domain=:domain AND epoch=:epoch"
        )
        connection.execute(sa.text(change), values)
    op.drop_column("attempts", "dealing")
    committed = "UPDATE attempts SET at=:now WHERE phase IN ('committed', 'closed')"
    connection.execute(sa.text(committed), {"now": int(time.time())})
    op.create_table(
        "erasures",
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("node", sa.String(63), primary_key=True),
        sa.Column("below", sa.BigInteger, nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "domains",
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("refresh_every", sa.BigInteger, nullable=False),
    )
