"""Health, figures and announcements of the platform."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

EVENTS_LATE_AFTER = timedelta(seconds=15)


class HealthLevel(IntEnum):
    """How well a part works; the worst part decides for the whole."""

    HEALTHY = 1
    DEGRADED = 2
    UNHEALTHY = 3


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """One part of the platform."""

    name: str
    level: HealthLevel
    message: str


@dataclass(frozen=True, slots=True)
class Health:
    """The platform, part by part."""

    components: tuple[ComponentHealth, ...]
    checked_at: datetime

    @property
    def level(self) -> HealthLevel:
        """That of the part that works worst."""
        return max(component.level for component in self.components)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What health is judged by: the nodes, events that wait since `oldest_event_at`, and why nobody took them."""

    now: datetime
    waiting_events: int
    oldest_event_at: datetime | None
    publish_error: str
    nodes: int
    nodes_offline: int
    # Nodes that fell silent together, so many that none of them is declared lost; 0 when there is no such alarm.
    nodes_guarded: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of what the caller sees; `outbox_backlog` is the platform's."""

    node_count: int
    nodes_online: int
    gpu_count: int
    model_count: int
    deployment_count: int
    deployments_running: int
    user_count: int
    outbox_backlog: int


@dataclass(frozen=True, slots=True)
class Announced:
    """Every user is told something; `severity` is low, medium or high."""

    message: str
    severity: str
    at: datetime


def judge(vitals: Vitals) -> tuple[ComponentHealth, ...]:
    """The parts of a platform whose database answered."""
    database = ComponentHealth("database", HealthLevel.HEALTHY, "the database answers")
    return (database, _events(vitals), _nodes(vitals))


def without_database(cause: str) -> tuple[ComponentHealth, ...]:
    """The parts of a platform whose database does not answer: nothing is known of the others."""
    unknown = "not known while the database is away"
    return (
        ComponentHealth("database", HealthLevel.UNHEALTHY, cause),
        *(ComponentHealth(name, HealthLevel.DEGRADED, unknown) for name in ("events", "nodes")),
    )


def _events(vitals: Vitals) -> ComponentHealth:
    age = vitals.now - vitals.oldest_event_at if vitals.oldest_event_at else timedelta()
    if age < EVENTS_LATE_AFTER:
        return ComponentHealth("events", HealthLevel.HEALTHY, "events are published as they come")
    cause = vitals.publish_error or "no relay publishes them"
    waiting = f"{vitals.waiting_events} events wait, the oldest for {age.total_seconds():.0f} s: {cause}"
    return ComponentHealth("events", HealthLevel.DEGRADED, waiting)


def _nodes(vitals: Vitals) -> ComponentHealth:
    if vitals.nodes_guarded:
        message = (
            f"{vitals.nodes_guarded} of {vitals.nodes} nodes fell silent together, as if this platform were cut off: "
            "none is declared lost and nothing is moved until some are heard again"
        )
        return ComponentHealth("nodes", HealthLevel.DEGRADED, message)
    if vitals.nodes_offline:
        message = f"{vitals.nodes_offline} of {vitals.nodes} nodes are offline"
        return ComponentHealth("nodes", HealthLevel.DEGRADED, message)
    return ComponentHealth("nodes", HealthLevel.HEALTHY, f"{_words(vitals.nodes)} there")


def _words(count: int) -> str:
    return "1 node is" if count == 1 else f"{count} nodes are"
