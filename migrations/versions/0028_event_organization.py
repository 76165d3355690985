"""Whose an event is."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.add_column("outbox", sa.Column("organization", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("outbox", "organization")
