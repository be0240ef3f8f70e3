"""The hub's durable state: schema, transactions, migrations. Sealed bytes and signed statements only."""
