"""What is said in a session, and what becomes of the workloads that a returning node already runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from controller.deployments.workload import DesiredChange, DesiredWorkload, Goal, WorkloadReport
from controller.nodes.model import Container, Gauges, Greeting, NodeId


@dataclass(frozen=True, slots=True)
class Hello:
    """How an agent introduces itself; `workloads` is what runs on its machine already.

    `peer_address` is `host:port` where it offers model files to other nodes, or empty.
    """

    node_id: NodeId
    greeting: Greeting
    workloads: tuple[WorkloadReport, ...]
    peer_address: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a heartbeat carries."""

    session_epoch: int
    gauges: Gauges
    containers: tuple[Container, ...]
    applied_revision: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a running workload is kept (`adopt`) or must end, and why."""

    workload_id: str
    replica: int
    epoch: int
    adopt: bool
    cause: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that has begun."""

    session_epoch: int
    desired: DesiredChange
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """An agent's answer to a command."""

    request_id: str
    accepted: bool
    cause: str


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What is asked of an agent: at most `limit` bytes from `offset`; a negative one means the last so many lines."""

    request_id: str
    workload_id: str
    offset: int
    limit: int


def decide(running: Sequence[WorkloadReport], desired: DesiredChange) -> tuple[Decision, ...]:
    """Merges what a returning node runs with what it is to run: a workload stays only in its present epoch."""
    wanted = {(each.workload_id, each.replica): each for each in desired.workloads}
    return tuple(_decide(report, wanted.get((report.workload_id, report.replica))) for report in running)


def _decide(report: WorkloadReport, wanted: DesiredWorkload | None) -> Decision:
    cause = _why_to_stop(report, wanted)
    return Decision(report.workload_id, report.replica, report.epoch, adopt=not cause, cause=cause)


def _why_to_stop(report: WorkloadReport, wanted: DesiredWorkload | None) -> str:
    if wanted is None:
        return "nothing of that name is to run on this node"
    if wanted.goal is Goal.END:
        return "it was told to end"
    if report.epoch < wanted.epoch:
        return f"it was placed anew as epoch {wanted.epoch}"
    if report.epoch > wanted.epoch:
        return f"its epoch {report.epoch} was never given out"
    return ""
