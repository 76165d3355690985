"""Revisions of models, and files that are stored once by what is in them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0012"
down_revision = "0011"

TENANT_OWNED = ["model_revisions", "model_revision_files"]
FACTS = (
    "source, source_url, model_format, size_mb, version, min_gpu_memory, min_vram, parameters, languages, license, "
    "weights_bytes, architecture, tags, pickle_allowed"
)
# What was imported before keeps its objects where they are; equal files are counted once from now on.
KEEP_BLOBS = """
INSERT INTO blobs (sha256, size_bytes, object_path, pins, pinned_until, created_at)
SELECT DISTINCT ON (sha256) sha256, size_bytes, 'models/' || model_id || '/' || path, '{}', now(), now()
FROM model_files JOIN models USING (model_id) WHERE purged_at IS NULL ORDER BY sha256, model_id, path
"""
# The columns above are named by this file alone.
KEEP_REVISIONS = f"""
INSERT INTO model_revisions (model_id, digest, number, org_id, user_id, created_at, facts)
SELECT model_id, digest, 1, org_id, user_id, created_at, to_jsonb(facts) FROM models,
LATERAL (SELECT {FACTS}) AS facts
"""  # noqa: S608 - nothing in it comes from outside
KEEP_FILES = """
INSERT INTO model_revision_files (model_id, digest, path, org_id, size_bytes, sha256)
SELECT model_files.model_id, digest, path, model_files.org_id, size_bytes, sha256
FROM model_files JOIN models USING (model_id) WHERE deleted_at IS NULL
"""
MOVE_FOLDERS = "UPDATE models SET minio_path = regexp_replace(minio_path, '/models/[^/]*$', '/blobs')"
BRING_BACK = """
INSERT INTO model_files (model_id, path, org_id, size_bytes, sha256)
SELECT files.model_id, files.path, files.org_id, files.size_bytes, files.sha256
FROM model_revision_files AS files JOIN models USING (model_id, digest)
"""


def upgrade() -> None:
    # The rows of every organisation are moved.
    op.execute("SELECT set_config('aiops.org', '*', true)")
    _create_blobs()
    _create_model_revisions()
    _create_model_revision_files()
    for statement in (KEEP_BLOBS, KEEP_REVISIONS, KEEP_FILES, MOVE_FOLDERS):
        op.execute(statement)
    op.drop_table("model_files")
    for table in TENANT_OWNED:
        for statement in protection(table):
            op.execute(statement)
    op.add_column("deployments", sa.Column("model_revision", sa.Text(), server_default="", nullable=False))
    op.execute(
        "UPDATE deployments SET model_revision = digest FROM models WHERE models.model_id = deployments.model_id"
    )


def downgrade() -> None:
    op.execute("SELECT set_config('aiops.org', '*', true)")
    op.drop_column("deployments", "model_revision")
    op.create_table(
        "model_files",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.model_id"], name=op.f("fk_model_files_model_id")),
        sa.PrimaryKeyConstraint("model_id", "path", name=op.f("pk_model_files")),
    )
    op.execute(BRING_BACK)
    for statement in protection("model_files"):
        op.execute(statement)
    for table in ["model_revision_files", "model_revisions", "blobs"]:
        op.drop_table(table)


def _create_blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_path", sa.Text(), nullable=False),
        sa.Column("pins", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("pinned_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
        sa.UniqueConstraint("object_path", name=op.f("uq_blobs_object_path")),
    )


def _create_model_revisions() -> None:
    op.create_table(
        "model_revisions",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.model_id"], name=op.f("fk_model_revisions_model_id")),
        sa.PrimaryKeyConstraint("model_id", "digest", name=op.f("pk_model_revisions")),
        sa.UniqueConstraint("model_id", "number", name="uq_model_revisions_model_id_number"),
    )


def _create_model_revision_files() -> None:
    op.create_table(
        "model_revision_files",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "digest"],
            ["model_revisions.model_id", "model_revisions.digest"],
            name="fk_model_revision_files_model_id",
        ),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_model_revision_files_sha256")),
        sa.PrimaryKeyConstraint("model_id", "digest", "path", name=op.f("pk_model_revision_files")),
    )
    op.create_index(op.f("ix_model_revision_files_sha256"), "model_revision_files", ["sha256"], unique=False)
