"""What is done with deployments."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from controller.deployments.model import (
    ALONE,
    Deployment,
    DeploymentCreated,
    DeploymentEvicted,
    DeploymentId,
    DeploymentStatus,
    DeploymentStatusChanged,
    Membership,
    Place,
    Usage,
    new_instance_id,
)
from controller.deployments.places import find_place, plan_for, revised
from controller.deployments.stores import UnitOfWork, Work
from controller.deployments.traffic import Traffic
from controller.deployments.wish import Wish
from controller.deployments.workload import Adapter
from controller.hints import Hints
from controller.models.model import Model
from controller.nodes.events import WorkloadAssigned, WorkloadEnded
from controller.nodes.model import Container, NodeNotFoundError
from controller.placement.model import Placement, Refusal
from mesh.errors import ConflictError
from mesh.failpoints import failpoint
from mesh.identity import Caller, UserId, new_id
from mesh.sql.database import retry_conflicts
from mesh.sql.idempotency import digest_of
from mesh.sql.paging import Page, PageRequest

# Placements take turns on few connections, so that reads never wait for them.
PARALLEL_PLACEMENTS = 4
_PLACEMENT_TRIES = 8


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

    async def plan(self, caller: Caller, wish: Wish, adapters: Sequence[str] = ()) -> Placement | Refusal:
        """Where a deployment would go now, with these adapters by id or name; changes nothing."""
        async with self._unit_of_work.reading(caller) as work:
            found = [await work.models.get(each, caller) for each in adapters]
            wish = replace(wish, adapters=tuple(Adapter(each.model_id, each.name, each.digest) for each in found))
            return await plan_for(work, caller, wish, await work.models.get(wish.model, caller))

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

    async def traffic(self, caller: Caller, ids: Collection[DeploymentId]) -> Mapping[DeploymentId, Traffic]:
        """How many requests deployments answered; those that had none are missing."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.traffic.of(ids)

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
            await failpoint("deploy.booked")
            model = await work.models.get(wish.model, caller, lock=True)
            made = await deployed(work, caller, wish, model, caller.user_id, deployment_id, request_id)
            if made is None:
                return None
            await failpoint("deploy.placed")
            await work.commit(*made[1])
            await failpoint("deploy.committed")
        if any(isinstance(each, DeploymentEvicted) for each in made[1]):
            self._hints.replicas_changed()
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
    deployment_id = deployment_id or DeploymentId(new_id("dep"))
    model = await revised(work, wish, model)
    place = await find_place(work, caller, deployment_id, wish, model, request_id)
    if place is None:
        return None
    now = await work.nodes.now()
    made = _deployment(deployment_id, user_id, model, wish, place, member, now)
    await work.deployments.add(made)
    return made, (DeploymentCreated(made, now), *place.told, assigned(made, model, now))


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
        model_revision=model.digest,
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
        program=wish.program,
        replica_set_id=member.replica_set_id,
        template_revision=member.template_revision,
        replaces=member.replaces,
        requested_port=wish.port,
        engine_options=wish.engine_options,
        adapters=wish.adapters,
        request_id=place.request_id,
        revision=place.revision,
        created_at=now,
        changed_at=now,
        options=wish.options,
    )


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
        engine_load=container.engine_load if container else None,
    )
