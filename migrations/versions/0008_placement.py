"""What a deployment asks for, and what was measured of one."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    options = sa.Column("options", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False)
    op.add_column("deployments", options)
    op.create_index("ix_deployments_changed_at", "deployments", ["changed_at"], unique=False)
    op.create_table(
        "memory_peaks",
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("context", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("peak_mb", sa.Integer(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(
            "org_id",
            "model_id",
            "digest",
            "engine",
            "devices",
            "context",
            "concurrency",
            name=op.f("pk_memory_peaks"),
        ),
    )
    for statement in protection("memory_peaks"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("memory_peaks")
    op.drop_index("ix_deployments_changed_at", table_name="deployments")
    op.drop_column("deployments", "options")
