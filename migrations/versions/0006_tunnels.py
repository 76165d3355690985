"""How the gateway reaches a node that it does not dial."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("nodes", sa.Column("tunnel", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("nodes", "tunnel")
