"""Which key used a join token, so that it may ask again when the answer was lost."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("join_tokens", sa.Column("used_by", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    # Used tokens were not kept before.
    op.execute("SELECT set_config('aiops.org', '*', true)")
    op.execute("DELETE FROM join_tokens WHERE used_by <> ''")
    op.drop_column("join_tokens", "used_by")
