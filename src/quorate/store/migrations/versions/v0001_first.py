"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.LargeBinary(16), primary_key=True),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("token", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "enrolments",
        sa.Column("token_id", sa.LargeBinary(16), sa.ForeignKey("tokens.id"), primary_key=True),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("entry", sa.LargeBinary),
        sa.Column("authority", sa.LargeBinary),
    )
    op.create_table(
        "records",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("kind", "name", "version"),
    )
    op.create_table(
        "spent",
        sa.Column("token", sa.String(128), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "attempts",
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("epoch", sa.BigInteger, primary_key=True),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("plan", sa.LargeBinary, nullable=False),
        sa.Column("charter", sa.LargeBinary, nullable=False),
        sa.Column("dealing", sa.LargeBinary),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("configuration", sa.LargeBinary),
        sa.Column("receipts", sa.LargeBinary),
        sa.Column("reason", sa.String(1024), nullable=False, server_default=""),
    )
