"""Routes: models as clients see them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "routes",
        sa.Column("route_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("visibility", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("wish", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("route_id", name=op.f("pk_routes")),
    )
    op.create_index("ix_routes_created_at_route_id", "routes", ["created_at", "route_id"], unique=False)
    op.create_index(op.f("ix_routes_org_id"), "routes", ["org_id"], unique=False)
    op.create_table(
        "route_names",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("route_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "name", name=op.f("pk_route_names")),
    )
    op.create_index(op.f("ix_route_names_route_id"), "route_names", ["route_id"], unique=False)
    for table in ("routes", "route_names"):
        for statement in protection(table):
            op.execute(statement)


def downgrade() -> None:
    op.drop_table("route_names")
    op.drop_table("routes")
