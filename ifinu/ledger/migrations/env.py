"""Alembic's environment for `migrate.migrate`, run within its transaction."""

from alembic import context

from ifinu.ledger.schema import metadata

connection, version_table = (context.config.attributes[name] for name in ("connection", "version_table"))
context.configure(connection=connection, version_table=version_table, target_metadata=metadata)
context.run_migrations()
