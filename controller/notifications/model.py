"""What happened on the platform, and what people are told of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

# Percent.
ALL_OF_IT = 100


class Level(Enum):
    """How much it matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    SUCCESS = "success"


@dataclass(frozen=True, slots=True)
class Notification:
    """What people are told. `subject` is the id of what it is about; `action` names it for programs."""

    subject: str
    level: Level
    title: str
    message: str
    action: str
    at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeploymentCreated:
    """Somebody asked for an instance of a model."""

    deployment_id: str
    model_id: str
    node_id: str
    at: datetime

    def notification(self) -> Notification:
        return Notification(
            subject=self.deployment_id,
            level=Level.INFO,
            title="Deployment started",
            message=f"Deployment {self.deployment_id} of model {self.model_id} has started on node {self.node_id}.",
            action="deploymentStarted",
            at=self.at,
            metadata={"deploymentId": self.deployment_id, "modelId": self.model_id, "nodeId": self.node_id},
        )


@dataclass(frozen=True, slots=True)
class DeploymentStatusChanged:
    """An instance came further: deploying, running, stopped or failed."""

    deployment_id: str
    status: str
    error: str
    endpoint: str
    at: datetime

    def notification(self) -> Notification | None:
        """None while it is still being deployed."""
        match self.status:
            case "running":
                where = f" It answers on {self.endpoint}." if self.endpoint else ""
                ready = f"Deployment {self.deployment_id} is running.{where}"
                return self._told(Level.SUCCESS, "Model ready", ready, "modelReady")
            case "failed":
                failed = f"Deployment {self.deployment_id} has failed: {self.error or 'no reason was given'}"
                return self._told(Level.ERROR, "Deployment failed", failed, "deploymentFailed")
            case "stopped":
                stopped = f"Deployment {self.deployment_id} has stopped."
                return self._told(Level.INFO, "Deployment stopped", stopped, "deploymentStopped")
        return None

    def _told(self, level: Level, title: str, message: str, action: str) -> Notification:
        facts = {"deploymentId": self.deployment_id, "status": self.status, "endpoint": self.endpoint}
        metadata = {name: value for name, value in facts.items() if value}
        return Notification(self.deployment_id, level, title, message, action, self.at, metadata)


@dataclass(frozen=True, slots=True)
class ModelDownloaded:
    """A model is complete and can be deployed."""

    model_id: str
    size_mb: float
    at: datetime

    def notification(self) -> Notification:
        return Notification(
            subject=self.model_id,
            level=Level.SUCCESS,
            title="Model imported",
            message=f"Model {self.model_id} is complete ({self.size_mb:.1f} MB) and can be deployed.",
            action="modelDownloaded",
            at=self.at,
            metadata={"modelId": self.model_id},
        )


@dataclass(frozen=True, slots=True)
class ModelDeleted:
    """A model is gone."""

    model_id: str
    at: datetime

    def notification(self) -> Notification:
        message = f"Model {self.model_id} was deleted."
        return Notification(
            self.model_id, Level.INFO, "Model deleted", message, "modelDeleted", self.at, {"modelId": self.model_id}
        )


@dataclass(frozen=True, slots=True)
class NodeOnline:
    """A node came, or came back."""

    node_id: str
    name: str
    at: datetime

    def notification(self) -> Notification:
        message = f"Node {self.name or self.node_id} is online."
        return Notification(
            self.node_id, Level.INFO, "Node online", message, "nodeOnline", self.at, {"nodeId": self.node_id}
        )


@dataclass(frozen=True, slots=True)
class NodeOffline:
    """A node has not been heard of for longer than its lease."""

    node_id: str
    reason: str
    at: datetime

    def notification(self) -> Notification:
        why = f": {self.reason}" if self.reason else ""
        message = f"Node {self.node_id} is offline{why}. Its instances get no traffic."
        return Notification(
            self.node_id, Level.WARNING, "Node offline", message, "nodeOffline", self.at, {"nodeId": self.node_id}
        )


@dataclass(frozen=True, slots=True)
class RoutingRefused:
    """Something of the routing was refused; the last good state stays in force."""

    subject: str
    reason: str
    reported_by: str
    at: datetime

    def notification(self) -> Notification:
        message = f"{self.subject} was refused; what was in force before stays so. {self.reason}"
        facts = {"subject": self.subject, "reportedBy": self.reported_by}
        return Notification(self.reported_by, Level.ERROR, "Routing refused", message, "routingRefused", self.at, facts)


@dataclass(frozen=True, slots=True)
class RolloutDecided:
    """Something was decided about a rollout."""

    rollout_id: str
    route: str
    candidate: str
    action: str
    reason: str
    at: datetime

    def notification(self) -> Notification | None:
        """None while it is on its way."""
        told = {
            "promote": (Level.SUCCESS, "Rollout promoted", f"{self.route} is answered by {self.candidate}"),
            "roll_back": (Level.ERROR, "Rollout rolled back", f"{self.route} is no longer led to {self.candidate}"),
            "abort": (Level.INFO, "Rollout aborted", f"{self.route} is no longer led to {self.candidate}"),
        }
        if self.action not in told:
            return None
        level, title, message = told[self.action]
        facts = {"rolloutId": self.rollout_id, "route": self.route, "candidate": self.candidate}
        action = title.title().replace(" ", "")
        return Notification(
            self.rollout_id, level, title, f"{message}: {self.reason}.", action[0].lower() + action[1:], self.at, facts
        )


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """A share of a budget was passed; all of it at 100 percent."""

    quota_id: str
    whose: str
    percent: int
    spent: str
    budget: str
    at: datetime

    def notification(self) -> Notification:
        over = self.percent >= ALL_OF_IT
        title = "Budget spent" if over else "Budget nearly spent"
        then = " Its requests are refused." if over else ""
        message = f"{self.whose} has spent {self.spent} of its budget of {self.budget} ({self.quota_id}).{then}"
        facts = {"quotaId": self.quota_id, "percent": str(self.percent), "spent": self.spent, "budget": self.budget}
        level = Level.ERROR if over else Level.WARNING
        return Notification(self.quota_id, level, title, message, "budgetReached", self.at, facts)


Occurrence = (
    BudgetReached
    | DeploymentCreated
    | DeploymentStatusChanged
    | ModelDownloaded
    | ModelDeleted
    | NodeOnline
    | NodeOffline
    | RoutingRefused
    | RolloutDecided
)
