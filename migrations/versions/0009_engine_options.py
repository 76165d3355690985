"""What deployments ask of their engines, and the LoRA adapters that they are to have."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"

NEW = (("engine_options", "{}"), ("adapters", "[]"))


def upgrade() -> None:
    for name, before in NEW:
        op.add_column("deployments", sa.Column(name, postgresql.JSONB(), nullable=False, server_default=before))
        op.alter_column("deployments", name, server_default=None)


def downgrade() -> None:
    for name, _ in reversed(NEW):
        op.drop_column("deployments", name)
