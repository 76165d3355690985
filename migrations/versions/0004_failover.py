"""Deployments that move: who is pinned, and why a deployment waits; the guard against losing the fleet at once."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

NEW: tuple[tuple[str, sa.types.TypeEngine[Any], str], ...] = (
    ("pinned", sa.Boolean(), "false"),
    ("requested_devices", postgresql.ARRAY(sa.Text()), "{}"),
    ("status_reason", sa.Text(), ""),
)


def upgrade() -> None:
    for name, kind, before in NEW:
        op.add_column("deployments", sa.Column(name, kind, nullable=False, server_default=before))
        op.alter_column("deployments", name, server_default=None)
    op.add_column("deployments", sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "fleet_guard",
        sa.Column("one", sa.Boolean(), nullable=False),
        sa.Column("silent", sa.Integer(), nullable=False),
        sa.Column("leased", sa.Integer(), nullable=False),
        sa.Column("held_since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_fleet_guard")),
    )


def downgrade() -> None:
    op.drop_table("fleet_guard")
    for name in ["waiting_since", *(name for name, _, _ in NEW)]:
        op.drop_column("deployments", name)
