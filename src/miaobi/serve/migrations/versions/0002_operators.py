"""Keys that may change which models others get. Those that were made before could, and
still can.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "keys",
        sa.Column("operator", sa.Boolean(), nullable=False, server_default=sa.true()),
    )
