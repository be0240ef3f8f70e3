"""The tables of the hub's database, as the newest migration leaves them.

Here: columns and keys. Not here: when anything is written (`database`), how a table came to be (`migrations`).
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

SCHEMAS = ("0001", "0002", "0003", "0004")
"""All that there were, by the names of their migrations; the last is this one."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

meta = Table(
    "meta",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("node", String(63), nullable=False),
    Column("token", LargeBinary, nullable=False),
)
"""Enrolment tokens, as the operator signed them."""

enrolments = Table(
    "enrolments",
    metadata,
    Column("token_id", LargeBinary(16), ForeignKey("tokens.id"), primary_key=True),
    Column("node", String(63), nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("entry", LargeBinary),
    Column("authority", LargeBinary),
)
"""The one request that used each token; `entry` and `authority` (DER) once the operator has approved it."""

records = Table(
    "records",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(256), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("statement", LargeBinary, nullable=False),
    UniqueConstraint("kind", "name", "version"),
)
"""Charters, access keys, KMS keys and aliases in the order in which every node learns them."""

spent = Table(
    "spent",
    metadata,
    Column("token", String(128), primary_key=True),
    Column("at", BigInteger, nullable=False, index=True),
)
"""Signatures of requests that changed something, for ten minutes: none is carried out twice."""

attempts = Table(
    "attempts",
    metadata,
    Column("domain", String(63), primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("phase", String(16), nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("charter", LargeBinary, nullable=False),
    Column("dealings", LargeBinary),
    Column("sealed", LargeBinary),
    Column("configuration", LargeBinary),
    Column("receipts", LargeBinary),
    Column("reason", String(1024), nullable=False, server_default=""),
    Column("at", BigInteger),
)
"""Every attempt at an epoch; its number is burnt whatever came of it. `at`: unix seconds of its commit."""

erasures = Table(
    "erasures",
    metadata,
    Column("domain", String(63), primary_key=True),
    Column("node", String(63), primary_key=True),
    Column("below", BigInteger, nullable=False),
    Column("statement", LargeBinary, nullable=False),
)
"""The last statement of each node that it holds no share of an epoch of the domain below this one."""

domains = Table(
    "domains",
    metadata,
    Column("domain", String(63), primary_key=True),
    Column("refresh_every", BigInteger, nullable=False),
)
"""What is set for a domain and is no charter's matter. `refresh_every`: seconds, 0 for never."""

rotate_every = Table(
    "rotate_every",
    metadata,
    Column("domain", String(63), primary_key=True),
    Column("seconds", BigInteger, nullable=False),
)
"""How often a domain's key is rotated, where that is set. 0 for never."""

rotations = Table(
    "rotations",
    metadata,
    Column("domain", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("phase", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
)
"""Each rotation of a domain's key to a version. `at`: unix seconds of its beginning."""

drops = Table(
    "drops",
    metadata,
    Column("domain", String(63), primary_key=True),
    Column("node", String(63), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("statement", LargeBinary, nullable=False),
)
"""The last statement of each node that it holds no share of this key version of the domain, or of one below."""

fleet_rotations = Table(
    "fleet_rotations",
    metadata,
    Column(
        "fleet_epoch", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False
    ),
    Column("phase", String(16), nullable=False),
    Column("ends", BigInteger, nullable=False),
)
"""Rotations of the fleet key, by the fleet epoch that each made. `ends`: unix seconds of its window's end."""

fleet_receipts = Table(
    "fleet_receipts",
    metadata,
    Column(
        "fleet_epoch", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False
    ),
    Column("node", String(63), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("statement", LargeBinary, nullable=False),
)
"""Nodes' statements that they keep the new fleet key (`kept`), and that they have erased the old one (`retired`)."""
