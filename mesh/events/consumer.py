"""Handles each event once."""

from sqlalchemy import Column, Table, Text, func

from mesh.sql.tables import metadata, moment

consumed_events = Table(
    "consumed_events",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("consumed_at", moment("consumed_at").type, nullable=False, server_default=func.now(), index=True),
)
