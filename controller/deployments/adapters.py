"""LoRA adapters of running deployments: which ones a deployment is to have. Its node makes its engine have them."""

from collections.abc import Iterable

from controller.deployments.model import Deployment, DeploymentId
from controller.deployments.refusals import AdaptersUnavailableError, DeploymentStoppedError, NotAnAdapterError
from controller.deployments.stores import UnitOfWork, Work
from controller.deployments.workload import Adapter
from controller.hints import Hints
from controller.models.manifest import ADAPTER_CONFIG
from controller.models.model import Model, ModelNotFoundError
from mesh.identity import Caller, OrgId, new_id


class Adapters:
    """Changes what deployments are to have. Each call can be repeated."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints

    async def load(self, caller: Caller, deployment_id: DeploymentId, model: str) -> Deployment:
        """The deployment, which is to have the adapter.

        DeploymentStoppedError, AdaptersUnavailableError, NotAnAdapterError; ModelNotFoundError also for an adapter of
        another organisation.
        """
        async with self._unit_of_work(caller) as work:
            before = await work.deployments.get(deployment_id, caller, lock=True)
            _require_room(before)
            adapter = await work.models.get(model, caller, lock=True)
            await require_adapter(work, before.org_id, adapter)
            if any(each.model_id == adapter.model_id for each in before.adapters):
                return before
            if len(before.adapters) >= before.engine_options.max_adapters:
                raise AdaptersUnavailableError(
                    f"{deployment_id} takes at most {before.engine_options.max_adapters} adapters; unload one first",
                    deployment_id=deployment_id,
                )
            after = await _having(work, before, (*before.adapters, Adapter(adapter.model_id, adapter.name)))
        return self._told(after)

    async def unload(self, caller: Caller, deployment_id: DeploymentId, model: str) -> Deployment:
        """The deployment, which is not to have the adapter of that id or name any more."""
        async with self._unit_of_work(caller) as work:
            before = await work.deployments.get(deployment_id, caller, lock=True)
            kept = tuple(each for each in before.adapters if model not in (each.model_id, each.name))
            if kept == before.adapters:
                return before
            after = await _having(work, before, kept)
        return self._told(after)

    def _told(self, after: Deployment) -> Deployment:
        self._hints.replicas_changed()
        self._hints.node_changed(after.node_id)
        return after


async def _having(work: Work, before: Deployment, adapters: Iterable[Adapter]) -> Deployment:
    revision, now = await work.nodes.next_revision(before.node_id), await work.nodes.now()
    after = before.having(tuple(adapters), revision, new_id("req"), now)
    await work.deployments.save(after)
    await work.commit()
    return after


def _require_room(deployment: Deployment) -> None:
    if not deployment.active:
        raise DeploymentStoppedError(
            f"{deployment.deployment_id} is {deployment.status.value}; deploy the model again",
            deployment_id=deployment.deployment_id,
        )
    if not deployment.engine_options.max_adapters:
        raise AdaptersUnavailableError(
            f"{deployment.deployment_id} takes no adapters; deploy with engine_options.max_adapters",
            deployment_id=deployment.deployment_id,
        )


async def require_adapter(work: Work, org_id: OrgId, adapter: Model) -> None:
    """ModelNotFoundError for another organisation's model, NotAnAdapterError for one that is none."""
    if adapter.org_id != org_id:
        raise ModelNotFoundError(adapter.model_id)
    files = (await work.revisions.files([(adapter.model_id, adapter.digest)]))[adapter.model_id, adapter.digest]
    if not any(file.path == ADAPTER_CONFIG for file in files):
        raise NotAnAdapterError(
            f"{adapter.name} is no LoRA adapter: it has no {ADAPTER_CONFIG}", model_id=adapter.model_id
        )
