"""Rotations of the fleet key, and the nodes' receipts for them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "fleet_rotations",
        sa.Column("fleet_epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("ends", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "fleet_receipts",
        sa.Column("fleet_epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("node", sa.String(63), primary_key=True),
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("statement", sa.LargeBinary, nullable=False),
    )
