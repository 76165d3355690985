"""The consumer that feeds the room: one handler for each type of event it listens to."""

from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from controller.notifications.convert import OCCURRENCES, SOURCES
from controller.notifications.service import Notifications
from controller.notifications.store import OutboxTelling
from mesh.clock import Clock
from mesh.events.cloudevents import Envelope
from mesh.events.consumer import Consumer
from mesh.events.kafka import Kafka
from mesh.loops import Wake
from mesh.sql.database import Database
from mesh.telemetry import Telemetry

GROUP = "notifications"


def notification_consumer(
    notifications: Notifications, *, database: Database, kafka: Kafka, telemetry: Telemetry, clock: Clock, relay: Wake
) -> Consumer:
    """A consumer whose `run` tells of every event once. It wakes the relay after each."""
    handler = partial(_handle, notifications)
    return Consumer(
        GROUP,
        SOURCES,
        dict.fromkeys(OCCURRENCES, handler),
        database=database,
        kafka=kafka,
        telemetry=telemetry,
        clock=clock,
        wrote=relay,
    )


async def _handle(notifications: Notifications, connection: AsyncConnection, event: Envelope) -> None:
    await notifications.follow(OCCURRENCES[event.type](event.value), OutboxTelling(connection, event.organization))
