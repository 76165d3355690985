"""How the number of replicas of a set follows the load, and what gateways say of that."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from mesh.sql.security import protection

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column("replica_sets", sa.Column("autoscaling", JSONB(), nullable=True))
    op.add_column("replica_sets", sa.Column("scaling", JSONB(), nullable=False, server_default="{}"))
    op.create_table(
        "replica_set_loads",
        sa.Column("replica_set_id", sa.Text(), nullable=False),
        sa.Column("reporter", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("held", sa.Integer(), nullable=False),
        sa.Column("idle_s", sa.Float(), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("replica_set_id", "reporter", name=op.f("pk_replica_set_loads")),
    )
    for statement in protection("replica_set_loads"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("replica_set_loads")
    op.drop_column("replica_sets", "scaling")
    op.drop_column("replica_sets", "autoscaling")
