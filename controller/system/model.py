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
    """What health is judged by: events that wait since `oldest_event_at` and why nobody took them, and the nodes.

    Of the nodes, `nodes_lost` have worked and are offline, the first of them since `lost_since`; `nodes_expected` are
    registered and have never connected.
    """

    now: datetime
    waiting_events: int
    oldest_event_at: datetime | None
    publish_error: str
    nodes: int
    nodes_lost: int
    lost_since: datetime | None
    nodes_expected: int
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
    there = f"{_words(vitals.nodes - vitals.nodes_lost - vitals.nodes_expected)} online"
    lost = f"{_words(vitals.nodes_lost)} offline"
    if vitals.lost_since:
        lost += f", not heard of for {(vitals.now - vitals.lost_since).total_seconds():.0f} s"
    expected = f"{vitals.nodes_expected} registered and never connected: is the agent started?"
    words = [there, *([lost] if vitals.nodes_lost else []), *([expected] if vitals.nodes_expected else [])]
    level = HealthLevel.DEGRADED if vitals.nodes_lost else HealthLevel.HEALTHY
    return ComponentHealth("nodes", level, "; ".join(words))


def _words(count: int) -> str:
    return "1 node is" if count == 1 else f"{count} nodes are"
