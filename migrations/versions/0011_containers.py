"""What can run workloads on a node, and what deployments bring as their own engine."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("nodes", sa.Column("runtime_report", postgresql.JSONB(), nullable=True))
    program = sa.Column("program", postgresql.JSONB(), nullable=False, server_default="{}")
    op.add_column("deployments", program)
    op.alter_column("deployments", "program", server_default=None)


def downgrade() -> None:
    op.drop_column("deployments", "program")
    op.drop_column("nodes", "runtime_report")
