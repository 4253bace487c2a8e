"""Keys, usage, files, jobs with their events, feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _word(name: str, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.String(255), nullable=nullable)


def _number(name: str, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "keys",
        _word("id"),
        _word("name"),
        _word("sha256"),
        _number("requests_per_minute", True),
        _number("tokens_per_day", True),
        _number("created"),
        _number("revoked", True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "usage",
        _word("key_id"),
        _word("model"),
        _word("day"),
        _number("requests"),
        _number("prompt_tokens"),
        _number("completion_tokens"),
        _number("pictures"),
        sa.PrimaryKeyConstraint("key_id", "model", "day"),
    )
    op.create_table(
        "files",
        _word("id"),
        _word("key_id"),
        _word("filename"),
        _word("purpose"),
        _number("bytes"),
        _word("sha256"),
        _number("created"),
        _number("expires", True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_files_key_id", "files", ["key_id"])
    op.create_table(
        "jobs",
        _word("id"),
        _word("key_id"),
        _word("kind"),
        _word("status"),
        sa.Column("asked", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON()),
        sa.Column("cancel", sa.Boolean(), nullable=False),
        _number("attempts"),
        _word("holder", True),
        _number("held_until", True),
        _number("created"),
        _number("started", True),
        _number("ended", True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_jobs_key_id", "jobs", ["key_id"])
    op.create_index("jobs_waiting", "jobs", ["status", "created"])
    op.create_table(
        "events",
        _word("id"),
        _word("job_id"),
        _number("number"),
        _word("kind"),
        _word("level"),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        _number("created"),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
    )
    op.create_index("events_in_order", "events", ["job_id", "number"], unique=True)
    op.create_table(
        "feedback",
        _word("id"),
        _word("key_id"),
        _word("kind"),
        _word("model"),
        _word("other", True),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("chosen", sa.Text()),
        sa.Column("rejected", sa.Text()),
        sa.Column("label", sa.Boolean()),
        _number("created"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_feedback_key_id", "feedback", ["key_id"])


def downgrade() -> None:
    for name in ("feedback", "events", "jobs", "files", "usage", "keys"):
        op.drop_table(name)
