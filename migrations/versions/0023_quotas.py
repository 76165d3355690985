"""Quotas, and what was used of each in each window."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0023"
down_revision = "0022"

TENANT_OWNED = ["quotas", "quota_windows"]


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("quota_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("limits", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("imposed", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("quota_id", name=op.f("pk_quotas")),
    )
    op.create_index(op.f("ix_quotas_org_id"), "quotas", ["org_id"], unique=False)
    op.create_index("ix_quotas_created_at_quota_id", "quotas", ["created_at", "quota_id"], unique=False)
    op.create_table(
        "quota_windows",
        sa.Column("quota_id", sa.Text(), nullable=False),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("quota_id", "measure", "period", "since", name=op.f("pk_quota_windows")),
    )
    op.create_index("ix_quota_windows_period_since", "quota_windows", ["period", "since"], unique=False)
    for table in TENANT_OWNED:
        for statement in protection(table):
            op.execute(statement)


def downgrade() -> None:
    for table in TENANT_OWNED:
        op.drop_table(table)
