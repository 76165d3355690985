"""What engines counted themselves."""

import sqlalchemy as sa
from alembic import op

from mesh.sql.security import protection

revision = "0029"
down_revision = "0028"

TENANT_OWNED = ["engine_counters", "engine_days"]


def upgrade() -> None:
    op.create_table(
        "engine_counters",
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("requests", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("deployment_id", name=op.f("pk_engine_counters")),
    )
    op.create_table(
        "engine_days",
        sa.Column("day", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("requests", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("day", "deployment_id", name=op.f("pk_engine_days")),
    )
    for table in TENANT_OWNED:
        for statement in protection(table):
            op.execute(statement)


def downgrade() -> None:
    for table in TENANT_OWNED:
        op.drop_table(table)
