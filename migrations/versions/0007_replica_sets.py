"""Replica sets and their replicas; nodes that are emptied, and which controller holds a node's session."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0007"
down_revision = "0006"

NEW: tuple[tuple[str, str, sa.types.TypeEngine[Any], str], ...] = (
    ("deployments", "requested_image", sa.Text(), ""),
    ("deployments", "environment", postgresql.JSONB(astext_type=sa.Text()), "{}"),
    ("deployments", "replica_set_id", sa.Text(), ""),
    ("deployments", "template_revision", sa.Integer(), "0"),
    ("deployments", "replaces", sa.Text(), ""),
    ("nodes", "draining", sa.Boolean(), "false"),
    ("nodes", "session_holder", sa.Text(), ""),
)

REPLICA_SETS: tuple[sa.schema.SchemaItem, ...] = (
    sa.Column("replica_set_id", sa.Text(), nullable=False),
    sa.Column("org_id", sa.Text(), nullable=False),
    sa.Column("user_id", sa.Text(), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("name", sa.Text(), nullable=False),
    sa.Column("model_id", sa.Text(), nullable=False),
    sa.Column("model_name", sa.Text(), nullable=False),
    sa.Column("replicas", sa.Integer(), nullable=False),
    sa.Column("templates", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column("revision", sa.Integer(), nullable=False),
    sa.Column("newest", sa.Integer(), nullable=False),
    sa.Column("stable_revision", sa.Integer(), nullable=False),
    sa.Column("paused", sa.Boolean(), nullable=False),
    sa.Column("progress_deadline_s", sa.Integer(), nullable=False),
    sa.Column("status", sa.Text(), nullable=False),
    sa.Column("reason", sa.Text(), nullable=False),
    sa.Column("ready", sa.Integer(), nullable=False),
    sa.Column("updated", sa.Integer(), nullable=False),
    sa.Column("active", sa.Integer(), nullable=False),
    sa.Column("failures", sa.Integer(), nullable=False),
    sa.Column("last_failure", sa.Text(), nullable=False),
    sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("progressed_at", sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint("replica_set_id", name=op.f("pk_replica_sets")),
)


def upgrade() -> None:
    for table, name, kind, before in NEW:
        op.add_column(table, sa.Column(name, kind, nullable=False, server_default=before))
        op.alter_column(table, name, server_default=None)
    op.create_index(
        "ix_deployments_replica_set_id",
        "deployments",
        ["replica_set_id"],
        unique=False,
        postgresql_where=sa.text("goal = 'run'"),
    )
    _create_replica_sets()
    for statement in protection("replica_sets"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("replica_sets")
    op.drop_index("ix_deployments_replica_set_id", table_name="deployments")
    for table, name, _, _ in NEW:
        op.drop_column(table, name)


def _create_replica_sets() -> None:
    op.create_table("replica_sets", *REPLICA_SETS)
    op.create_index(
        "ix_replica_sets_created_at_replica_set_id", "replica_sets", ["created_at", "replica_set_id"], unique=False
    )
    op.create_index(op.f("ix_replica_sets_org_id"), "replica_sets", ["org_id"], unique=False)
    op.create_index(
        "uq_replica_sets_org_id_name",
        "replica_sets",
        ["org_id", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
