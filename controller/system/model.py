"""Health, numbers and announcements of the platform."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

# Events older than this say that the broker does not take them.
LATE_EVENTS = timedelta(seconds=30)


class Health(Enum):
    """How well something is, from best to worst."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


_ORDER = list(Health)


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """One part of the platform. The message says what is wrong and what follows from it; empty when all is well."""

    name: str
    health: Health
    message: str = ""


@dataclass(frozen=True, slots=True)
class PlatformHealth:
    """Every part, and the worst of them."""

    components: tuple[ComponentHealth, ...]
    version: str
    checked_at: datetime

    @property
    def health(self) -> Health:
        """The worst of the parts."""
        return max((each.health for each in self.components), key=_ORDER.index, default=Health.HEALTHY)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the database says of the platform. `oldest_event` is the age of the oldest event not published."""

    nodes: int
    nodes_online: int
    oldest_event: timedelta
    backlog: int


@dataclass(frozen=True, slots=True)
class Stats:
    """How much there is of everything that the caller sees."""

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
    """Everyone is told something. `severity` is low, medium or high."""

    announcement_id: str
    message: str
    severity: str
    at: datetime


def components_of(vitals: Vitals) -> Sequence[ComponentHealth]:
    """What the vitals mean."""
    return (ComponentHealth("database", Health.HEALTHY), _events(vitals), _nodes(vitals))


def database_away(message: str) -> Sequence[ComponentHealth]:
    """What it means that the database does not answer."""
    consequence = f"{message}; what runs goes on, nothing can be changed"
    return (ComponentHealth("database", Health.UNHEALTHY, consequence),)


def _events(vitals: Vitals) -> ComponentHealth:
    if vitals.oldest_event <= LATE_EVENTS:
        return ComponentHealth("events", Health.HEALTHY)
    age = int(vitals.oldest_event.total_seconds())
    message = f"{vitals.backlog} events wait for the broker, the oldest for {age} s; none is lost"
    return ComponentHealth("events", Health.DEGRADED, message)


def _nodes(vitals: Vitals) -> ComponentHealth:
    if vitals.nodes_online == vitals.nodes:
        return ComponentHealth("nodes", Health.HEALTHY)
    message = f"{vitals.nodes - vitals.nodes_online} of {vitals.nodes} nodes are offline"
    return ComponentHealth("nodes", Health.DEGRADED, message)
