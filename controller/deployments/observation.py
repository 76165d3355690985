"""What a node's report makes of a deployment: level-triggered, so that reports may come twice, late or not at all."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from controller.deployments.model import Deployment, DeploymentStatus, DeploymentStatusChanged, Observation
from controller.deployments.workload import Goal, HealthStatus, WorkloadReport, WorkloadState
from controller.nodes.events import ContainerChanged, DeploymentProgressed

# Progress is told in steps of so many percent, or once a second.
TOLD_STEP = 5
TOLD_INTERVAL = timedelta(seconds=1)
_STATUSES = {
    WorkloadState.DOWNLOADING: DeploymentStatus.DEPLOYING,
    WorkloadState.EXTRACTING: DeploymentStatus.DEPLOYING,
    WorkloadState.STARTING: DeploymentStatus.DEPLOYING,
    WorkloadState.RUNNING: DeploymentStatus.RUNNING,
    WorkloadState.FAILED: DeploymentStatus.FAILED,
    # What is to run and was stopped is on its way back.
    WorkloadState.STOPPED: DeploymentStatus.DEPLOYING,
}
_PHASES = {WorkloadState.STOPPED: "starting"}
_ORDER = ["", "downloading", "extracting", "starting", "running", "failed"]


def observe(before: Deployment, report: WorkloadReport, now: datetime) -> Deployment:
    """The deployment after a report; the same one when the report is stale or tells nothing new.

    A report of another epoch or of an older session is stale, and so is one that would lead back to an earlier phase,
    unless the node says that the engine was started anew.
    """
    seen = before.observed
    if report.epoch != before.epoch or _is_of_older_session(report, seen):
        return before
    if before.goal is Goal.END:
        return _ending(before, report, now)
    if _order(report) < _ORDER.index(seen.phase) and not _is_anew(report, seen):
        return before
    status = _STATUSES[report.state]
    started_running = status is DeploymentStatus.RUNNING and before.status is not DeploymentStatus.RUNNING
    after = replace(
        before,
        status=status,
        # Why it moved is worth knowing until it runs; that it waited ends with its node's first word.
        status_reason=before.status_reason if _is_under_way(before, status) else "",
        waiting_since=None,
        failed_on=() if status is DeploymentStatus.RUNNING else before.failed_on,
        observed=_observed(before, report, now),
        deployed_at=now if started_running else before.deployed_at,
    )
    return before if after == before else replace(after, changed_at=now)


def unheard_of(before: Deployment, session_epoch: int, now: datetime) -> Deployment:
    """The deployment after its node opened a session and named all that it runs, and it was not among that.

    The same one when the node has told of it in that session, or when nothing of it ran as far as is known.
    """
    if before.observed.session_epoch >= session_epoch:
        return before
    if before.goal is Goal.END:
        return replace(before, ended_at=before.ended_at or now)
    if before.status is not DeploymentStatus.RUNNING:
        return before
    gone = replace(
        before.observed,
        session_epoch=session_epoch,
        phase="starting",
        progress=0,
        health_status=HealthStatus.UNKNOWN,
        container_id="",
    )
    return replace(
        before,
        status=DeploymentStatus.DEPLOYING,
        status_reason="",
        waiting_since=None,
        observed=gone,
        changed_at=now,
    )


def told(
    before: Deployment, after: Deployment, report: WorkloadReport, now: datetime
) -> Iterator[DeploymentProgressed | DeploymentStatusChanged | ContainerChanged]:
    """The events of a report that changed the deployment from `before` to `after`."""
    if after.goal is Goal.RUN and _is_worth_telling(before.observed, after.observed, now):
        yield DeploymentProgressed(
            node_id=after.node_id,
            org_id=after.org_id,
            deployment_id=after.deployment_id,
            request_id=after.request_id,
            job_id=after.deployment_id,
            status=after.observed.phase,
            progress=after.observed.progress,
            container_id=after.observed.container_id,
            error=after.observed.error_message,
            at=now,
            detail=after.observed.detail,
        )
    if after.status is not before.status:
        yield DeploymentStatusChanged(after, now)
    if after.observed.container_event not in ("", before.observed.container_event):
        yield ContainerChanged(
            node_id=after.node_id,
            org_id=after.org_id,
            container_id=report.container_id or before.observed.container_id,
            event=report.event,
            exit_code=report.exit_code,
            error=report.error,
            at=now,
        )


def remember_told(before: Observation, after: Deployment, now: datetime) -> Deployment:
    """The deployment that remembers what of its progress is told by now."""
    if not _is_worth_telling(before, after.observed, now):
        return after
    seen = after.observed
    return replace(after, observed=replace(seen, told_progress=seen.progress, told_detail=seen.detail, told_at=now))


def _is_under_way(before: Deployment, status: DeploymentStatus) -> bool:
    return status is DeploymentStatus.DEPLOYING and before.waiting_since is None


def _is_of_older_session(report: WorkloadReport, seen: Observation) -> bool:
    return 0 < report.session_epoch < seen.session_epoch


def _is_anew(report: WorkloadReport, seen: Observation) -> bool:
    restarts = report.container.restarts if report.container else 0
    other = report.container_id not in ("", seen.container_id)
    return restarts > seen.restarts or other or bool(report.event) or report.session_epoch > seen.session_epoch


def _order(report: WorkloadReport) -> int:
    return _ORDER.index(_PHASES.get(report.state, report.state.value))


def _ending(before: Deployment, report: WorkloadReport, now: datetime) -> Deployment:
    ended_at = before.ended_at or (now if report.state is WorkloadState.STOPPED else None)
    seen = replace(
        before.observed,
        session_epoch=max(before.observed.session_epoch, report.session_epoch),
        health_status=HealthStatus.UNKNOWN,
        container_event=_container_event(report) or before.observed.container_event,
    )
    after = replace(before, observed=seen, ended_at=ended_at)
    return before if after == before else replace(after, changed_at=now)


def _observed(before: Deployment, report: WorkloadReport, now: datetime) -> Observation:
    seen, container = before.observed, report.container
    phase = _PHASES.get(report.state, report.state.value)
    runs = report.state is WorkloadState.RUNNING
    failed = report.state is WorkloadState.FAILED or bool(report.error)
    same_phase = phase == seen.phase and not _is_anew(report, seen)
    after = replace(
        seen,
        session_epoch=max(seen.session_epoch, report.session_epoch),
        phase=phase,
        progress=100 if runs else max(report.progress, seen.progress if same_phase else 0),
        detail=report.detail,
        health_status=report.health if runs else HealthStatus.UNKNOWN,
        container_id=report.container_id or (seen.container_id if runs else ""),
        engine=report.engine or seen.engine,
        port=report.port or seen.port,
        # What ended it last stays to be read until it runs again.
        error_message=_failure(report) if failed else "" if runs else seen.error_message,
        error_reason=report.error_reason if failed else "" if runs else seen.error_reason,
        log_tail=report.log_tail if failed else "" if runs else seen.log_tail,
        next_attempt_at=now + timedelta(seconds=report.next_attempt_s) if report.next_attempt_s else None,
        restarts=max(seen.restarts, container.restarts if container else 0),
        inference_path=report.inference_path or seen.inference_path,
        unsupported_fields=report.unsupported_fields if report.inference_path else seen.unsupported_fields,
        private_paths=report.private_paths if report.inference_path else seen.private_paths,
        grpc_port=report.grpc_port if report.inference_path else seen.grpc_port,
        single_use_connections=(
            report.single_use_connections if report.inference_path else seen.single_use_connections
        ),
        container_event=_container_event(report) or seen.container_event,
        adapters=report.adapters if runs else (),
    )
    if container is None or after == _gauged(seen, report):
        return after
    return replace(_gauged(after, report), measured_at=now)


def _gauged(seen: Observation, report: WorkloadReport) -> Observation:
    container = report.container
    if container is None:
        return seen
    return replace(
        seen, memory_mb=container.memory_mb, cpu_percent=container.cpu_percent, started_at=container.started_at
    )


def _failure(report: WorkloadReport) -> str:
    cause = report.error or "the engine ended without a word"
    return f"{cause} ({report.error_reason})" if report.error_reason else cause


def _container_event(report: WorkloadReport) -> str:
    if not report.event:
        return ""
    restarts = report.container.restarts if report.container else 0
    return f"{report.event} {report.container_id} {restarts} {report.exit_code}"


def _is_worth_telling(before: Observation, after: Observation, now: datetime) -> bool:
    if (after.phase, after.error_message, after.restarts) != (before.phase, before.error_message, before.restarts):
        return True
    if (after.progress, after.detail) == (after.told_progress, after.told_detail) or not after.phase:
        return False
    overdue = after.told_at is None or now - after.told_at >= TOLD_INTERVAL
    return after.progress >= after.told_progress + TOLD_STEP or overdue
