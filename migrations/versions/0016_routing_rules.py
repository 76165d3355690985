"""Routing rules: which model a task is for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "routing_rules",
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rules", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("default_model", sa.Text(), nullable=False),
        sa.Column("fallback_model", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("org_id", name=op.f("pk_routing_rules")),
    )
    for statement in protection("routing_rules"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("routing_rules")
