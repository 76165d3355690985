"""The one MetaData of the platform's tables, and the columns that entities share."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, DateTime, MetaData, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def moment(name: str, *, nullable: bool = False) -> Column[datetime]:
    """A point in time, kept with its zone."""
    return Column(name, DateTime(timezone=True), nullable=nullable)


def owner_columns() -> list[Column[Any]]:
    """Who an object belongs to. Row-level security reads `org_id`."""
    return [Column("org_id", Text, nullable=False, index=True), Column("user_id", Text, nullable=False)]


def audit_columns() -> list[Column[Any]]:
    """When an object came, changed and went. `deleted_at` set means deleted."""
    return [moment("created_at"), moment("changed_at"), moment("deleted_at", nullable=True)]
