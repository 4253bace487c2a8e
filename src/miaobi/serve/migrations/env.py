"""What Alembic runs: on the connection that serve/schema.py gave it, in one transaction."""

from alembic import context

from miaobi.serve.records import Table

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
