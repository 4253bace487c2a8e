"""Conversations with their turns, and files that arrive in parts."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def _word(name: str, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.String(255), nullable=nullable)


def _number(name: str, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "conversations",
        _word("id"),
        _word("key_id"),
        _word("origin"),
        _text("title"),
        _text("folded_title"),
        sa.Column("notes", sa.JSON(), nullable=False),
        _number("created"),
        _number("updated"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("conversations_by_key", "conversations", ["key_id", "updated"])
    op.create_index("ix_conversations_updated", "conversations", ["updated"])
    op.create_table(
        "turns",
        _word("id"),
        _word("conversation_id"),
        _number("number"),
        _word("parent_id", True),
        _word("model", True),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("output", sa.JSON(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        _text("folded_text"),
        _number("created"),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], ondelete="CASCADE"
        ),
    )
    op.create_index("ix_turns_conversation_id", "turns", ["conversation_id"])
    op.create_table(
        "uploads",
        _word("id"),
        _word("key_id"),
        _word("filename"),
        _word("purpose"),
        _number("bytes"),
        _word("status"),
        _word("file_id", True),
        _number("file_seconds", True),
        _number("created"),
        _number("expires"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_uploads_key_id", "uploads", ["key_id"])
