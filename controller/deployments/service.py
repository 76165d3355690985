"""What is done with deployments, and what that needs from storage."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from controller.deployments.model import (
    ALONE,
    Deployment,
    DeploymentCreated,
    DeploymentId,
    DeploymentStatus,
    DeploymentStatusChanged,
    GpuDeviceNotFoundError,
    Holding,
    Membership,
    NoPlacementError,
    Place,
    PortInUseError,
    Replica,
    Usage,
    Wish,
    named,
    new_instance_id,
)
from controller.deployments.placement import Candidate, Cause, Claim, Demand, Placement, Refusal, plan
from controller.hints import Hints
from controller.models.model import Model, ModelFile, ModelId
from controller.nodes.events import WorkloadAssigned, WorkloadEnded
from controller.nodes.model import Container, Node, NodeId, NodeNotFoundError
from mesh.errors import ConflictError
from mesh.identity import Caller, OrgId, UserId, new_id
from mesh.sql.database import retry_conflicts
from mesh.sql.idempotency import RequestIds, digest_of
from mesh.sql.paging import Page, PageRequest

# Placements take turns on few connections, so that reads never wait for them.
PARALLEL_PLACEMENTS = 4
_PLACEMENT_TRIES = 8
_IMAGES = {"vllm": "vllm/vllm-openai:latest", "triton": "nvcr.io/nvidia/tritonserver:24.01-py3"}


class DeploymentStore(Protocol):
    async def get(self, deployment_id: DeploymentId, caller: Caller, *, lock: bool = False) -> Deployment: ...
    async def page(
        self, caller: Caller, page: PageRequest, status: DeploymentStatus | None, model_id: str, node_id: str
    ) -> Page[Deployment]: ...
    async def add(self, deployment: Deployment) -> None: ...
    async def save(self, deployment: Deployment) -> None: ...
    async def holdings(self, org_id: OrgId, node_id: NodeId | None = None) -> tuple[Holding, ...]: ...
    async def on_node(self, node_id: NodeId, *, lock: bool = False) -> tuple[Deployment, ...]: ...
    async def changed_since(self, node_id: NodeId, revision: int) -> tuple[Deployment, ...]: ...
    async def stranded(self) -> tuple[DeploymentId, ...]: ...
    async def count_active_on(self, node_id: NodeId) -> int: ...
    async def replicas(self) -> tuple[Replica, ...]: ...


class Registry(Protocol):
    """The models to deploy."""

    async def get(self, model: str, caller: Caller, *, lock: bool = False) -> Model: ...
    async def all_files(self, model_ids: Collection[ModelId]) -> dict[ModelId, tuple[ModelFile, ...]]: ...


class Fleet(Protocol):
    """The nodes to deploy on."""

    async def now(self) -> datetime: ...
    async def get(self, node_id: NodeId, caller: Caller, *, lock: bool = False) -> Node: ...
    async def fleet(self, caller: Caller) -> tuple[Node, ...]: ...
    async def next_revision(self, node_id: NodeId) -> int: ...
    async def containers(self, node_id: NodeId, page: PageRequest) -> Page[Container]: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def deployments(self) -> DeploymentStore: ...
    @property
    def models(self) -> Registry: ...
    @property
    def nodes(self) -> Fleet: ...
    @property
    def requests(self) -> RequestIds: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Deployments:
    """The deployments of organisations."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints
        self._places = asyncio.Semaphore(PARALLEL_PLACEMENTS)

    async def get(self, caller: Caller, deployment_id: DeploymentId) -> Deployment:
        """One deployment; DeploymentNotFoundError also for one of another organisation."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.deployments.get(deployment_id, caller)

    async def page(
        self, caller: Caller, page: PageRequest, status: DeploymentStatus | None, model_id: str, node_id: str
    ) -> Page[Deployment]:
        """The deployments that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.deployments.page(caller, page, status, model_id, node_id)

    async def plan(self, caller: Caller, wish: Wish) -> Placement | Refusal:
        """Where a deployment would go now; changes nothing."""
        async with self._unit_of_work.reading(caller) as work:
            return await _plan(work, caller, wish, await work.models.get(wish.model, caller))

    async def create(self, caller: Caller, wish: Wish, request_id: str) -> Deployment:
        """Places one more instance of a model and tells its node.

        The same `request_id` again answers the same deployment. NoPlacementError, PortInUseError or
        GpuDeviceNotFoundError when no node can take it.
        """
        async with self._places:
            for _ in range(_PLACEMENT_TRIES):
                deployment = await retry_conflicts(lambda: self._try_create(caller, wish, request_id))
                if deployment is not None:
                    self._hints.node_changed(deployment.node_id)
                    return deployment
        raise ConflictError("other deployments were faster on every node that would do; repeat the call")

    async def stop(self, caller: Caller, deployment_id: DeploymentId) -> Deployment:
        """Takes the deployment out of the routes and tells its node to end it. Can be repeated."""
        async with self._unit_of_work(caller) as work:
            before = await work.deployments.get(deployment_id, caller, lock=True)
            after, events = await stopped(work, before)
            if after is not before:
                await work.commit(*events)
        self._hints.replicas_changed()
        self._hints.fleet_changed()
        self._hints.node_changed(after.node_id)
        return after

    async def usage(self, caller: Caller, deployment_id: DeploymentId) -> Usage:
        """What the deployment uses, as its node last said."""
        async with self._unit_of_work.reading(caller) as work:
            deployment = await work.deployments.get(deployment_id, caller)
            containers = await work.nodes.containers(deployment.node_id, PageRequest(size=1000))
            mine = [each for each in containers.items if each.workload_id == deployment_id and deployment.active]
            heard = (await work.nodes.get(deployment.node_id, caller)).last_heartbeat if mine else None
            now = await work.nodes.now()
        return _usage(deployment, mine[0] if mine else None, heard, now)

    async def _try_create(self, caller: Caller, wish: Wish, request_id: str) -> Deployment | None:
        """One try; None when somebody else took the place between the plan and the claim."""
        deployment_id = DeploymentId(new_id("dep"))
        async with self._unit_of_work(caller) as work:
            booked = await work.requests.claim(
                caller.org_id, "CreateDeployment", request_id, digest_of(wish), deployment_id
            )
            if booked != deployment_id:
                return await work.deployments.get(DeploymentId(booked), caller)
            model = await work.models.get(wish.model, caller, lock=True)
            made = await deployed(work, caller, wish, model, caller.user_id, deployment_id, request_id)
            if made is None:
                return None
            await work.commit(*made[1])
            return made[0]


async def deployed(
    work: Work,
    caller: Caller,
    wish: Wish,
    model: Model,
    user_id: UserId,
    deployment_id: DeploymentId | None = None,
    request_id: str = "",
    member: Membership = ALONE,
) -> tuple[Deployment, Sequence[object]] | None:
    """Places a new deployment as part of `work`, and says what to tell; as `find_place`."""
    place = await find_place(work, caller, wish, model, request_id)
    if place is None:
        return None
    now = await work.nodes.now()
    made = _deployment(deployment_id or DeploymentId(new_id("dep")), user_id, model, wish, place, member, now)
    await work.deployments.add(made)
    return made, (DeploymentCreated(made, now), assigned(made, model, now))


async def find_place(work: Work, caller: Caller, wish: Wish, model: Model, request_id: str = "") -> Place | None:
    """A place that is claimed with the commit of `work`; None when somebody else took it between plan and claim.

    Lock the model before. NoPlacementError, PortInUseError or GpuDeviceNotFoundError when no node can take it.
    """
    planned = _placed(model, await _plan(work, caller, wish, model))
    node = await work.nodes.get(planned.node_id, caller, lock=True)
    placement = await _plan_again(work, planned, wish, model, node)
    if placement is None:
        return None
    return Place(
        node_id=placement.node_id,
        image=wish.image or ("" if "process" in node.runtimes else _IMAGES.get(model.framework.value, "")),
        gpu_devices=placement.gpu_devices,
        memory_allocated=placement.memory_mb,
        request_id=request_id or new_id("req"),
        revision=await work.nodes.next_revision(placement.node_id),
    )


async def stopped(work: Work, before: Deployment) -> tuple[Deployment, Sequence[object]]:
    """Stops a deployment as part of `work`, and says what to tell. The same deployment when it was stopped before."""
    if before.status is DeploymentStatus.STOPPED:
        return before, ()
    now, request_id = await work.nodes.now(), new_id("req")
    try:
        after = before.stop(await work.nodes.next_revision(before.node_id), request_id, now)
    except NodeNotFoundError:
        # Nobody is left to be told.
        after = replace(before.stop(before.revision, request_id, now), ended_at=now)
    await work.deployments.save(after)
    ended = WorkloadEnded(
        after.node_id, after.org_id, request_id, after.observed.container_id or after.container_name, now
    )
    return after, (DeploymentStatusChanged(after, now), ended)


async def _plan(work: Work, caller: Caller, wish: Wish, model: Model) -> Placement | Refusal:
    if wish.node_id is not None:
        node = await work.nodes.get(wish.node_id, caller)
        fleet: Sequence[Node] = [node]
        if node.org_id != model.org_id:
            raise NodeNotFoundError(wish.node_id)
    else:
        # Whoever sees every organisation still deploys within the model's own.
        fleet = [node for node in await work.nodes.fleet(caller) if node.org_id == model.org_id]
    held = await work.deployments.holdings(model.org_id, wish.node_id)
    return plan(_demand(wish, model), _candidates(fleet, held))


async def _plan_again(work: Work, planned: Placement, wish: Wish, model: Model, node: Node) -> Placement | None:
    """The plan with what is claimed on the node, which is locked, by now; None when it is full."""
    held = await work.deployments.holdings(model.org_id, node.node_id)
    demand = replace(_demand(wish, model), node_id=node.node_id, gpu_devices=planned.gpu_devices)
    again = plan(demand, _candidates([node], held))
    return again if isinstance(again, Placement) else None


def _deployment(
    deployment_id: DeploymentId,
    user_id: UserId,
    model: Model,
    wish: Wish,
    place: Place,
    member: Membership,
    now: datetime,
) -> Deployment:
    return Deployment(
        deployment_id=deployment_id,
        instance_id=new_instance_id(),
        org_id=model.org_id,
        user_id=user_id,
        model_id=model.model_id,
        model_name=model.name,
        framework=model.framework.value,
        task=model.task.value,
        node_id=place.node_id,
        image=place.image,
        gpu_devices=place.gpu_devices,
        memory_allocated=place.memory_allocated,
        pinned=wish.node_id is not None,
        requested_devices=wish.gpu_devices,
        requested_image=wish.image,
        environment=wish.environment,
        replica_set_id=member.replica_set_id,
        template_revision=member.template_revision,
        replaces=member.replaces,
        requested_port=wish.port,
        request_id=place.request_id,
        revision=place.revision,
        created_at=now,
        changed_at=now,
    )


def _demand(wish: Wish, model: Model) -> Demand:
    return Demand(
        model_id=model.model_id,
        model_name=model.name,
        framework=model.framework.value,
        task=model.task.value,
        weights_bytes=model.weights_bytes,
        architecture=model.architecture,
        node_id=wish.node_id,
        gpu_devices=wish.gpu_devices,
        port=wish.port,
    )


def _candidates(fleet: Sequence[Node], held: Sequence[Holding]) -> list[Candidate]:
    by_node = defaultdict[NodeId, list[Holding]](list)
    for holding in held:
        by_node[holding.node_id].append(holding)
    return [Candidate(node, tuple(_claim_of(each, node) for each in by_node[node.node_id])) for node in fleet]


def _claim_of(holding: Holding, node: Node) -> Claim:
    return Claim(
        deployment_id=holding.deployment_id,
        model_id=holding.model_id,
        memory_mb=holding.memory_limit_mb,
        gpu_devices=holding.gpu_devices,
        port=holding.port,
        settled_mb=_settled_mb(holding, node),
    )


def _settled_mb(holding: Holding, node: Node) -> int:
    """How much of a claim the node's latest reading shows: nothing when the engine did not run yet when it was taken.

    An engine on a GPU takes its whole share at its start; one in RAM grows, and what it has is known.
    """
    since, heard = holding.running_since, node.last_heartbeat
    if since is None or heard is None or since >= heard:
        return 0
    return holding.memory_limit_mb if holding.gpu_devices else min(holding.memory_limit_mb, holding.memory_mb)


def _placed(model: Model, planned: Placement | Refusal) -> Placement:
    if isinstance(planned, Placement):
        return planned
    causes = {refusal.cause for refusal in planned.refusals}
    reasons = named([f"{refusal.node_name} ({refusal.node_id}): {refusal.reason}" for refusal in planned.refusals])
    if not planned.refusals:
        raise NoPlacementError("there is no node; join one with `aiops node join`", model_id=model.model_id)
    message = f"no node can take {model.name}. {reasons}"
    if causes == {Cause.PORT}:
        raise PortInUseError(message, model_id=model.model_id)
    if causes == {Cause.DEVICE}:
        raise GpuDeviceNotFoundError(message, model_id=model.model_id)
    raise NoPlacementError(message, model_id=model.model_id)


def assigned(deployment: Deployment, model: Model, now: datetime) -> WorkloadAssigned:
    """Its node is told to run it."""
    port = deployment.requested_port
    return WorkloadAssigned(
        node_id=deployment.node_id,
        org_id=deployment.org_id,
        request_id=deployment.request_id,
        job_id=deployment.deployment_id,
        model_id=deployment.model_id,
        framework=deployment.framework,
        model_path=model.minio_path,
        image=deployment.image,
        gpu_device=deployment.gpu_device,
        memory_limit=f"{deployment.memory_limit_mb}m",
        ports=f"{port}:{port}" if port else "",
        at=now,
    )


def _usage(deployment: Deployment, container: Container | None, heard: datetime | None, now: datetime) -> Usage:
    """From the container of the node's last heartbeat, where there is one; `heard` is when that came."""
    observed = deployment.observed
    started_at = container.started_at if container else observed.started_at
    runs = deployment.status is DeploymentStatus.RUNNING and started_at is not None
    return Usage(
        deployment_id=deployment.deployment_id,
        memory_mb=container.memory_mb if container else observed.memory_mb,
        cpu_percent=container.cpu_percent if container else observed.cpu_percent,
        restarts=max(observed.restarts, container.restarts if container else 0),
        uptime_seconds=max(0.0, (now - started_at).total_seconds()) if runs and started_at else 0.0,
        measured_at=heard or observed.measured_at,
    )
