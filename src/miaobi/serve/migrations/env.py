"""What Alembic runs: on the connection that serve/database.py gave it, in one transaction."""

from alembic import context

from miaobi.serve.records import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
