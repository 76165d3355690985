"""Where deployments go: planned with the fleet as it is known here, and claimed under the lock of the chosen node."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from controller.deployments.fleet import candidate_of
from controller.deployments.model import (
    Deployment,
    DeploymentEvicted,
    DeploymentId,
    DeploymentStatusChanged,
    GpuDeviceNotFoundError,
    NoPlacementError,
    Place,
    PortInUseError,
    named,
)
from controller.deployments.stores import Work
from controller.deployments.wish import Wish
from controller.deployments.workload import Goal
from controller.models.model import Model, ModelNotFoundError
from controller.models.revision import at_revision
from controller.nodes.events import WorkloadEnded
from controller.nodes.model import Node, NodeId, NodeNotFoundError
from controller.placement.fleet import Fleet
from controller.placement.model import Cause, Demand, Eviction, Placement, Refusal
from controller.placement.plan import plan
from mesh.identity import SYSTEM, Caller, new_id


async def find_place(
    work: Work,
    caller: Caller,
    deployment_id: DeploymentId,
    wish: Wish,
    model: Model,
    request_id: str = "",
    avoid: Collection[NodeId] = (),
) -> Place | None:
    """A place that is claimed with the commit of `work`; None when somebody else took it between plan and claim.

    Deployments of lower priority that have to make room are evicted with the same commit. Lock the model before.
    None of the nodes to `avoid` is taken.
    NoPlacementError, PortInUseError or GpuDeviceNotFoundError when no node can take it.
    """
    model = await revised(work, wish, model)
    planned = _placed(model, await plan_for(work, caller, wish, model, avoid))
    node = await work.nodes.get(planned.node_id, caller, lock=True)
    placement = await _plan_again(work, planned, wish, model, node)
    if placement is None:
        return None
    told = await _make_room(work, deployment_id, placement.evictions)
    return Place(
        node_id=placement.node_id,
        image=wish.image or node.gauges.runtimes.image_of(placement.engine),
        gpu_devices=placement.gpu_devices,
        memory_allocated=placement.memory_mb,
        request_id=request_id or new_id("req"),
        revision=await work.nodes.next_revision(placement.node_id),
        told=tuple(told),
    )


async def revised(work: Work, wish: Wish, model: Model) -> Model:
    """The model as the revision that is asked for has it. ModelRevisionNotFoundError."""
    if wish.model_revision in ("", model.digest):
        return model
    return at_revision(model, await work.revisions.get(model, wish.model_revision), model.changed_at)


async def _make_room(work: Work, evictor: DeploymentId, evictions: Sequence[Eviction]) -> Sequence[object]:
    """Evicts who stands in the way, as part of `work`, whose node is locked, and says what to tell."""
    events = list[object]()
    for eviction in evictions:
        before = await work.deployments.get(DeploymentId(eviction.deployment_id), SYSTEM, lock=True)
        if not before.active or before.goal is not Goal.RUN:
            continue
        after, told = await sent_away(work, before, f"evicted for {evictor}: {eviction.reason}")
        events += [DeploymentEvicted(after, evictor, eviction.reason, after.changed_at), *told]
    return events


async def sent_away(work: Work, before: Deployment, reason: str) -> tuple[Deployment, Sequence[object]]:
    """Ends it where it is as part of `work`, so that it waits for another place, and says what to tell."""
    now, request_id = await work.nodes.now(), new_id("req")
    after = before.evict(await work.nodes.next_revision(before.node_id), request_id, reason, now)
    await work.deployments.save(after)
    container = after.observed.container_id or after.container_name
    return after, (
        DeploymentStatusChanged(after, now),
        WorkloadEnded(after.node_id, after.org_id, request_id, container, now),
    )


async def plan_for(
    work: Work, caller: Caller, wish: Wish, model: Model, avoid: Collection[NodeId] = ()
) -> Placement | Refusal:
    """The plan with the fleet as it is known here. InvalidRequestError for a wish that this model can never meet."""
    model = await revised(work, wish, model)
    wish.check(model)
    if wish.node_id is not None:
        node = await work.nodes.get(wish.node_id, caller)
        if node.org_id != model.org_id:
            raise NodeNotFoundError(wish.node_id)
    demand = replace(await _demand(work, wish, model), avoid=frozenset(avoid))
    return plan(demand, await work.fleet.present())


async def _plan_again(work: Work, planned: Placement, wish: Wish, model: Model, node: Node) -> Placement | None:
    """The plan with what is claimed on the node, which is locked, by now; None when it is full."""
    held = await work.deployments.holdings(node.node_id)
    demand = replace(await _demand(work, wish, model), node_id=node.node_id)
    if not planned.evictions:
        demand = replace(demand, gpu_devices=planned.gpu_devices)
    again = plan(demand, Fleet([candidate_of(node, held)]))
    return again if isinstance(again, Placement) else None


async def _demand(work: Work, wish: Wish, model: Model) -> Demand:
    return Demand(
        model_id=model.model_id,
        model_name=model.name,
        framework=model.framework.value,
        task=model.task.value,
        weights_bytes=model.weights_bytes + await _adapters_bytes(work, wish),
        architecture=model.architecture,
        node_id=wish.node_id,
        gpu_devices=wish.gpu_devices,
        port=wish.port,
        # Whoever sees every organisation still deploys within the model's own.
        org_id=model.org_id,
        digest=model.digest,
        image=wish.image,
        options=wish.options,
        peaks=await work.peaks.of(model.model_id, model.digest),
    )


async def _adapters_bytes(work: Work, wish: Wish) -> int:
    """What the adapters that it has from its start add; of a deleted one nothing is known, nor needed."""
    total = 0
    for each in wish.adapters:
        with suppress(ModelNotFoundError):
            total += (await work.models.get(each.model_id, SYSTEM)).weights_bytes
    return total


def _placed(model: Model, planned: Placement | Refusal) -> Placement:
    if isinstance(planned, Placement):
        return planned
    causes = {tally.cause for tally in planned.tallies}
    reasons = named([f"{refusal.node_name} ({refusal.node_id}): {refusal.reason}" for refusal in planned.refusals])
    total = sum(tally.nodes for tally in planned.tallies)
    if total > len(planned.refusals):
        counts = ", ".join(f"{tally.nodes:,} {tally.cause.value}" for tally in planned.tallies)
        reasons = f"Of {total:,} nodes: {counts}. The nearest: {reasons}"
    if not planned.refusals:
        raise NoPlacementError("there is no node; join one with `aiops node join`", model_id=model.model_id)
    message = f"no node can take {model.name}. {reasons}"
    if causes == {Cause.PORT}:
        raise PortInUseError(message, model_id=model.model_id)
    if causes == {Cause.DEVICE}:
        raise GpuDeviceNotFoundError(message, model_id=model.model_id)
    raise NoPlacementError(message, model_id=model.model_id)
