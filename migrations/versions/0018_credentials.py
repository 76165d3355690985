"""Credentials for providers outside."""

import sqlalchemy as sa
from alembic import op

from mesh.sql.security import protection

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "credentials",
        sa.Column("credential_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("credential_id", name=op.f("pk_credentials")),
    )
    op.create_index(
        "ix_credentials_created_at_credential_id", "credentials", ["created_at", "credential_id"], unique=False
    )
    op.create_index(op.f("ix_credentials_org_id"), "credentials", ["org_id"], unique=False)
    op.create_index(
        "uq_credentials_org_id_name",
        "credentials",
        ["org_id", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    for statement in protection("credentials"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("credentials")
