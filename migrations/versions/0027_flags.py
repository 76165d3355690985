"""Feature flags."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.create_table(
        "flags",
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wish", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("org_id", "name", name=op.f("pk_flags")),
    )
    for statement in protection("flags"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("flags")
