"""Which of a repository's quantisations a download brings."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("model_downloads", sa.Column("quantization", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("model_downloads", "quantization")
