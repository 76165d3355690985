"""Tells people of what happened."""

from typing import Protocol

from controller.notifications.model import Notification, Occurrence


class Telling(Protocol):
    """Where notifications are written, together with the memory of what they answer."""

    async def tell(self, notification: Notification) -> None:
        """Writes one, to be published when the transaction commits."""
        ...


class Notifications:
    """The use case."""

    async def follow(self, occurrence: Occurrence, telling: Telling) -> None:
        """Tells of an occurrence, if it is one that people should hear of."""
        notification = occurrence.notification()
        if notification is not None:
            await telling.tell(notification)
