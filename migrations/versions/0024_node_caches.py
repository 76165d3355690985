"""The models whose files nodes have."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.create_table(
        "node_caches",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("digests", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], name=op.f("fk_node_caches_node_id")),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node_caches")),
    )
    for statement in protection("node_caches"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("node_caches")
