"""What Alembic runs for each upgrade: the connection comes from `database`, which holds the transaction."""

from alembic import context

from quorate.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,  # `database` begins the transaction itself; the driver would not
)
with context.begin_transaction():
    context.run_migrations()
