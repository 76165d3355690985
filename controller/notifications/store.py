"""Writes notifications to the outbox."""

from sqlalchemy.ext.asyncio import AsyncConnection

from controller.events import envelopes
from controller.notifications.convert import EVENTS
from controller.notifications.model import Notification
from mesh.events import outbox
from mesh.telemetry import current_traceparent


class OutboxTelling:
    """Tells through the outbox, in a transaction that somebody else commits."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def tell(self, notification: Notification) -> None:
        """Writes one notification as an event."""
        rows = envelopes(EVENTS, [notification], notification.at, current_traceparent())
        await outbox.append(self._connection, *rows)
