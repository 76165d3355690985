"""Rooms, conversations, messages and their entries."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0025"
down_revision = "0024"
TABLES = ("rooms", "conversations", "messages", "conversation_entries")


def upgrade() -> None:
    op.create_table(
        "rooms",
        *_identity("room_id"),
        *_audit(),
        *_texts("name", "agent_id", "scope"),
        sa.Column("member_ids", sa.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "room_id", name=op.f("pk_rooms")),
    )
    op.create_table(
        "conversations",
        *_identity("conversation_id"),
        *_audit(),
        *_texts("epoch", "agent_id", "room_id", "connection_id", "title", "channel"),
        sa.Column("channel_metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        *_texts("status"),
        *_numbers("offset", "sequence", "message_count"),
        sa.Column("last_message_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("org_id", "conversation_id", name=op.f("pk_conversations")),
    )
    op.create_index("ix_conversations_user", "conversations", ["org_id", "user_id", "created_at"], unique=False)
    op.create_index("ix_conversations_room", "conversations", ["org_id", "room_id"], unique=False)
    _messages()
    op.create_table(
        "conversation_entries",
        *_texts("org_id", "conversation_id"),
        *_numbers("offset"),
        *_texts("message_id", "kind"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "conversation_id", "offset", name=op.f("pk_conversation_entries")),
    )
    op.create_index(
        "ix_conversation_entries_message",
        "conversation_entries",
        ["org_id", "conversation_id", "message_id"],
        unique=False,
    )
    for table in TABLES:
        for statement in protection(table):
            op.execute(statement)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _messages() -> None:
    op.create_table(
        "messages",
        *_identity("conversation_id", "message_id"),
        *_audit(),
        *_numbers("sequence"),
        *_texts("type", "sender_id", "sender_type", "content"),
        sa.Column("files", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        *_texts("thinking", "tool_name"),
        sa.Column("tool_input", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("tool_output", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("tool_status", sa.Text(), nullable=True),
        *_texts("tool_error"),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column(
            "words", postgresql.TSVECTOR(), sa.Computed("to_tsvector('simple'::regconfig, content)", persisted=True)
        ),
        sa.PrimaryKeyConstraint("org_id", "conversation_id", "message_id", name=op.f("pk_messages")),
    )
    op.create_index("uq_messages_sequence", "messages", ["org_id", "conversation_id", "sequence"], unique=True)
    op.create_index("ix_messages_words", "messages", ["words"], unique=False, postgresql_using="gin")
    op.create_index("ix_messages_created_at", "messages", ["org_id", "created_at"], unique=False)


def _identity(*names: str) -> list[sa.Column[str]]:
    return _texts("org_id", *names, "user_id")


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer(), nullable=False) for name in names]


def _audit() -> list[sa.Column[object]]:
    names = {"created_at": False, "changed_at": False, "deleted_at": True}
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=nullable) for name, nullable in names.items()]
