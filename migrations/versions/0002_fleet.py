"""Nodes, models and deployments."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mesh.sql.security import protection

revision = "0002"
down_revision = "0001"

# Rows of these belong to an organisation: row-level security binds them.
TENANT_OWNED = ["nodes", "join_tokens", "node_containers", "models", "model_files", "deployments"]

NODES: tuple[sa.schema.SchemaItem, ...] = (
    sa.Column("node_id", sa.Text(), nullable=False),
    sa.Column("org_id", sa.Text(), nullable=False),
    sa.Column("user_id", sa.Text(), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("name", sa.Text(), nullable=False),
    sa.Column("role", postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column("is_local", sa.Boolean(), nullable=False),
    sa.Column("vpn_ip", sa.Text(), nullable=False),
    sa.Column("controller_endpoint", sa.Text(), nullable=False),
    sa.Column("working_directory", sa.Text(), nullable=False),
    sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column("status", sa.Text(), nullable=False),
    sa.Column("in_maintenance", sa.Boolean(), nullable=False),
    sa.Column("websocket_connected", sa.Boolean(), nullable=False),
    sa.Column("session_epoch", sa.BigInteger(), nullable=False),
    sa.Column("session_started_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("last_heartbeat", sa.DateTime(timezone=True), nullable=True),
    sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("desired_revision", sa.BigInteger(), nullable=False),
    sa.Column("applied_revision", sa.BigInteger(), nullable=False),
    sa.Column("boot_id", sa.Text(), nullable=False),
    sa.Column("agent_version", sa.Text(), nullable=False),
    sa.Column("agent_address", sa.Text(), nullable=False),
    sa.Column("cpu_cores", sa.Integer(), nullable=False),
    sa.Column("runtimes", postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column("engines", postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column("driver_version", sa.Text(), nullable=False),
    sa.Column("gpu_error", sa.Text(), nullable=False),
    sa.Column("gpu_devices", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column("cpu_utilization", sa.Float(), nullable=False),
    sa.Column("ram_total", sa.BigInteger(), nullable=False),
    sa.Column("ram_free", sa.BigInteger(), nullable=False),
    sa.Column("disk_total", sa.BigInteger(), nullable=False),
    sa.Column("disk_free", sa.BigInteger(), nullable=False),
    sa.Column("measured_at", sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint("node_id", name=op.f("pk_nodes")),
)

MODELS: tuple[sa.schema.SchemaItem, ...] = (
    sa.Column("model_id", sa.Text(), nullable=False),
    sa.Column("org_id", sa.Text(), nullable=False),
    sa.Column("user_id", sa.Text(), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("name", sa.Text(), nullable=False),
    sa.Column("description", sa.Text(), nullable=False),
    sa.Column("source", sa.Text(), nullable=False),
    sa.Column("source_url", sa.Text(), nullable=False),
    sa.Column("framework", sa.Text(), nullable=False),
    sa.Column("model_format", sa.Text(), nullable=False),
    sa.Column("task", sa.Text(), nullable=False),
    sa.Column("minio_path", sa.Text(), nullable=False),
    sa.Column("size_mb", sa.Integer(), nullable=False),
    sa.Column("version", sa.Text(), nullable=False),
    sa.Column("min_gpu_memory", sa.Integer(), nullable=False),
    sa.Column("min_vram", sa.Integer(), nullable=False),
    sa.Column("parameters", sa.BigInteger(), nullable=False),
    sa.Column("languages", postgresql.ARRAY(sa.Text()), nullable=False),
    sa.Column("license", sa.Text(), nullable=False),
    sa.Column("digest", sa.Text(), nullable=False),
    sa.Column("weights_bytes", sa.BigInteger(), nullable=False),
    sa.Column("architecture", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
    sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint("model_id", name=op.f("pk_models")),
)


def upgrade() -> None:
    _create_nodes()
    _create_join_tokens()
    _create_node_containers()
    _create_models()
    _create_model_files()
    _create_deployments()
    for table in TENANT_OWNED:
        for statement in protection(table):
            op.execute(statement)


def downgrade() -> None:
    for table in ["deployments", "model_files", "models", "node_containers", "join_tokens", "nodes"]:
        op.drop_table(table)


def _create_nodes() -> None:
    op.create_table("nodes", *NODES)
    op.create_index(
        "ix_nodes_lease_expires_at",
        "nodes",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("lease_expires_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_nodes_org_id"), "nodes", ["org_id"], unique=False)
    op.create_index(
        "uq_nodes_org_id_name", "nodes", ["org_id", "name"], unique=True, postgresql_where=sa.text("deleted_at IS NULL")
    )


def _create_join_tokens() -> None:
    op.create_table(
        "join_tokens",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], name=op.f("fk_join_tokens_node_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_join_tokens")),
    )
    op.create_index(op.f("ix_join_tokens_node_id"), "join_tokens", ["node_id"], unique=False)


def _create_node_containers() -> None:
    op.create_table(
        "node_containers",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("container_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.node_id"], name=op.f("fk_node_containers_node_id")),
        sa.PrimaryKeyConstraint("node_id", "container_id", name=op.f("pk_node_containers")),
    )


def _create_models() -> None:
    op.create_table("models", *MODELS)
    op.create_index(
        "ix_models_created_at_model_id",
        "models",
        ["created_at", "model_id"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_models_deleted_at",
        "models",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL AND purged_at IS NULL"),
    )
    op.create_index(op.f("ix_models_org_id"), "models", ["org_id"], unique=False)
    op.create_index(
        "uq_models_org_id_name",
        "models",
        ["org_id", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )


def _create_model_files() -> None:
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


def _create_deployments() -> None:
    op.create_table(
        "deployments",
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("framework", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("gpu_devices", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("memory_allocated", sa.Integer(), nullable=False),
        sa.Column("requested_port", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("goal", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("observed", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("deployed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("deployment_id", name=op.f("pk_deployments")),
        sa.UniqueConstraint("instance_id", name=op.f("uq_deployments_instance_id")),
    )
    op.create_index(
        "ix_deployments_created_at_deployment_id", "deployments", ["created_at", "deployment_id"], unique=False
    )
    op.create_index(
        "ix_deployments_model_id",
        "deployments",
        ["model_id"],
        unique=False,
        postgresql_where=sa.text("status IN ('deploying', 'running')"),
    )
    op.create_index("ix_deployments_node_id_revision", "deployments", ["node_id", "revision"], unique=False)
    op.create_index(op.f("ix_deployments_org_id"), "deployments", ["org_id"], unique=False)
