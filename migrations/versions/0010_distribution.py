"""Chunks of files, and where nodes offer files to each other."""

import sqlalchemy as sa
from alembic import op

from mesh.sql.security import protection

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "file_chunks",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("chunk_bytes", sa.Integer(), nullable=False),
        sa.Column("chunk_sha256s", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_file_chunks")),
    )
    op.create_table(
        "node_peers",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], name=op.f("fk_node_peers_node_id")),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node_peers")),
    )
    for statement in protection("node_peers"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("node_peers")
    op.drop_table("file_chunks")
