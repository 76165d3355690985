"""What requests cost."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    # What was used before prices were told cost nothing.
    op.add_column("usage_records", sa.Column("route_name", sa.Text(), nullable=False, server_default=""))
    op.add_column("usage_records", sa.Column("cost", sa.Numeric(), nullable=False, server_default="0"))
    op.add_column("usage_hours", sa.Column("cost", sa.Numeric(), nullable=False, server_default="0"))
    op.alter_column("usage_records", "route_name", server_default=None)
    op.alter_column("usage_records", "cost", server_default=None)
    op.alter_column("usage_hours", "cost", server_default=None)


def downgrade() -> None:
    op.drop_column("usage_hours", "cost")
    op.drop_column("usage_records", "cost")
    op.drop_column("usage_records", "route_name")
