"""The nodes that a deployment failed on for their sake."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column(
        "deployments", sa.Column("failed_on", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False)
    )
    op.create_index(
        "ix_deployments_failed",
        "deployments",
        ["deployment_id"],
        postgresql_where=sa.text("goal = 'run' AND status = 'failed'"),
    )


def downgrade() -> None:
    op.drop_index("ix_deployments_failed", "deployments")
    op.drop_column("deployments", "failed_on")
