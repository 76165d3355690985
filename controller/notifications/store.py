"""Writes notifications to the outbox."""

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from controller.events import envelopes
from controller.notifications.convert import EVENTS
from controller.notifications.model import Notification
from mesh.events import outbox
from mesh.telemetry import current_traceparent


class OutboxTelling:
    """Tells an organisation through the outbox, in a transaction that somebody else commits."""

    def __init__(self, connection: AsyncConnection, organization: str) -> None:
        self._connection = connection
        self._organization = organization

    async def tell(self, notification: Notification) -> None:
        """Writes one notification as an event."""
        rows = envelopes(EVENTS, [notification], notification.at, current_traceparent())
        await outbox.append(self._connection, *(replace(row, organization=self._organization) for row in rows))
