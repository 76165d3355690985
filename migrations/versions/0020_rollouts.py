"""Rollouts, their decisions, and what they look at in the ledger."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("routes", sa.Column("rollout_id", sa.Text(), server_default="", nullable=False))
    _create_rollouts()
    op.create_table(
        "rollout_decisions",
        sa.Column("rollout_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("sight", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "number", name=op.f("pk_rollout_decisions")),
    )
    for table in ("rollouts", "rollout_decisions"):
        for statement in protection(table):
            op.execute(statement)
    _tell_of_routes_in_the_ledger()


def downgrade() -> None:
    op.drop_index("ix_usage_records_route_id_ended_at", "usage_records")
    for column in ("ended_at", "mirrored", "intended_target", "route_id"):
        op.drop_column("usage_records", column)
    op.drop_table("rollout_decisions")
    op.drop_table("rollouts")
    op.drop_column("routes", "rollout_id")


def _create_rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("rollout_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("route_id", sa.Text(), nullable=False),
        sa.Column("route_name", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("weight_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("remembered", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", name=op.f("pk_rollouts")),
    )
    op.create_index("ix_rollouts_created_at_rollout_id", "rollouts", ["created_at", "rollout_id"], unique=False)
    op.create_index(op.f("ix_rollouts_org_id"), "rollouts", ["org_id"], unique=False)
    op.create_index(op.f("ix_rollouts_route_id"), "rollouts", ["route_id"], unique=False)


def _tell_of_routes_in_the_ledger() -> None:
    for column in ("route_id", "intended_target"):
        op.add_column("usage_records", sa.Column(column, sa.Text(), server_default="", nullable=False))
        op.alter_column("usage_records", column, server_default=None)
    op.add_column("usage_records", sa.Column("mirrored", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.alter_column("usage_records", "mirrored", server_default=None)
    op.add_column("usage_records", sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True))
    # Row-level security binds the owner, too, and migrations belong to no organisation.
    op.execute("SET LOCAL aiops.org = '*'")
    op.execute("UPDATE usage_records SET ended_at = started_at + duration_ms * interval '1 millisecond'")
    op.alter_column("usage_records", "ended_at", nullable=False)
    op.create_index(
        "ix_usage_records_route_id_ended_at",
        "usage_records",
        ["route_id", "ended_at"],
        unique=False,
        postgresql_where=sa.text("route_id != ''"),
    )
