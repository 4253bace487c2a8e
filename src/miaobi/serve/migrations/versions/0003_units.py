"""Usage in units: one row for each, where 0001 had a column for each."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

COLUMNS = ("requests", "prompt_tokens", "completion_tokens", "pictures")
"""Of the table that was: each is a unit now."""


def upgrade() -> None:
    names = ("key_id", "model", "day", "unit")
    op.create_table(
        "amounts",
        *(sa.Column(name, sa.String(255), nullable=False) for name in names),
        sa.Column("amount", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(*names),
    )
    for column in COLUMNS:
        op.execute(
            "INSERT INTO amounts (key_id, model, day, unit, amount) "
            f"SELECT key_id, model, day, '{column}', {column} FROM usage "
            f"WHERE {column} <> 0"
        )
    op.drop_table("usage")
