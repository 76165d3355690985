"""Downloads from a hub, and what a model's card says."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0005"
down_revision = "0004"

UNFINISHED = sa.text("state IN ('queued', 'downloading', 'storing')")


def upgrade() -> None:
    text_list: postgresql.ARRAY[str] = postgresql.ARRAY(sa.Text())
    op.add_column("models", sa.Column("tags", text_list, server_default="{}", nullable=False))
    op.add_column("models", sa.Column("pickle_allowed", sa.Boolean(), server_default="false", nullable=False))
    _create_model_downloads()
    for statement in protection("model_downloads"):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("model_downloads")
    op.drop_column("models", "pickle_allowed")
    op.drop_column("models", "tags")


def _create_model_downloads() -> None:
    op.create_table(
        "model_downloads",
        sa.Column("download_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("repo", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("framework", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("allow_pickle", sa.Boolean(), nullable=False),
        sa.Column("sealed_token", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("commit", sa.Text(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("bytes_per_second", sa.Float(), nullable=False),
        sa.Column("files_total", sa.Integer(), nullable=False),
        sa.Column("files_done", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("error_reason", sa.Text(), nullable=False),
        sa.Column("license", sa.Text(), nullable=False),
        sa.Column("skipped_files", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.Text(), server_default="", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("download_id", name=op.f("pk_model_downloads")),
    )
    _create_indexes()


def _create_indexes() -> None:
    table = "model_downloads"
    op.create_index("ix_model_downloads_created_at_download_id", table, ["created_at", "download_id"], unique=False)
    op.create_index(op.f("ix_model_downloads_org_id"), table, ["org_id"], unique=False)
    op.create_index("ix_model_downloads_unfinished", table, ["created_at"], unique=False, postgresql_where=UNFINISHED)
    op.create_index(
        "uq_model_downloads_org_id_name_unfinished",
        table,
        ["org_id", "name"],
        unique=True,
        postgresql_where=UNFINISHED,
    )
