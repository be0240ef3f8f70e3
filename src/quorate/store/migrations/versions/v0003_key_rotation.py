"""Key rotation: which rotations there were and how far they are, who has dropped what, intervals."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rotate_every",
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("seconds", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "rotations",
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "drops",
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("node", sa.String(63), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
    )
