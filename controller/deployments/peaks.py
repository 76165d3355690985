"""What engines were seen to need, kept for the next placement of the same model in the same shape."""

from collections.abc import Sequence
from dataclasses import dataclass

from controller.deployments.model import Deployment, DeploymentId, DeploymentNotFoundError
from controller.deployments.stores import UnitOfWork, Work
from controller.models.model import ModelNotFoundError
from controller.nodes.model import Container
from controller.placement.model import Peak, PeakKey
from controller.placement.need import TRUSTED_SAMPLES
from mesh.identity import SYSTEM

# An engine that ran out of memory gets so much more the next time.
_MORE_PERCENT = 125
_RUNNING = "running"
# Engines that fill the share of a card that they are given, whatever their model needs.
TAKES_ITS_SHARE = frozenset({"vllm"})


@dataclass(slots=True)
class _Seen:
    mb: int = 0
    gpu_mb: int = 0
    samples: int = 0
    new_samples: int = 0
    raised: bool = False


class Peaks:
    """Remembers the most memory that each running engine was seen with, and writes it down now and then.

    Nothing is written any more of an engine that was looked at often enough and does not grow.
    """

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work
        self._seen: dict[DeploymentId, _Seen] = {}

    def observe(self, containers: Sequence[Container]) -> None:
        """What a heartbeat says of the engines on a node."""
        for container in containers:
            if container.status != _RUNNING or not container.memory_mb or not container.workload_id:
                continue
            seen = self._seen.setdefault(DeploymentId(container.workload_id), _Seen())
            seen.new_samples += 1
            if container.memory_mb > seen.mb or container.gpu_memory_mb > seen.gpu_mb:
                seen.mb, seen.raised = max(seen.mb, container.memory_mb), True
                seen.gpu_mb = max(seen.gpu_mb, container.gpu_memory_mb)

    async def keep(self) -> None:
        """Writes down what is new; a step to repeat."""
        self._seen = {each: seen for each, seen in self._seen.items() if seen.new_samples}
        due = {each: seen for each, seen in self._seen.items() if seen.raised or 0 < seen.samples < TRUSTED_SAMPLES}
        for deployment_id, seen in due.items():
            new, seen.new_samples, seen.raised = seen.new_samples, 0, False
            seen.samples += new
            if not await self._keep(deployment_id, Peak(seen.mb, new), Peak(seen.gpu_mb, new)):
                self._seen.pop(deployment_id, None)

    async def _keep(self, deployment_id: DeploymentId, in_ram: Peak, on_card: Peak) -> bool:
        """Whether there is still anything to learn of the deployment."""
        async with self._unit_of_work(SYSTEM) as work:
            try:
                deployment = await work.deployments.get(deployment_id, SYSTEM)
            except DeploymentNotFoundError:
                return False
            # What an engine holds in RAM says nothing of what it needs of its cards, nor does what it has of them when
            # it takes all that it is given.
            peak = on_card if deployment.gpu_devices else in_ram
            greedy = deployment.gpu_devices and deployment.observed.engine in TAKES_ITS_SHARE
            if not deployment.active or greedy:
                return False
            if not peak.mb:
                return True
            await remember(work, deployment, peak)
            await work.commit()
        return True


async def remember(work: Work, deployment: Deployment, peak: Peak) -> None:
    """Keeps a peak of the deployment's shape as part of `work`; of a model that is gone nothing."""
    try:
        model = await work.models.get(deployment.model_id, SYSTEM)
    except ModelNotFoundError:
        return
    options = deployment.options
    engine, devices = deployment.observed.engine, len(deployment.gpu_devices)
    key = PeakKey(model.model_id, model.digest, engine, devices, options.context, options.concurrency)
    await work.peaks.raise_to(deployment.org_id, key, peak)


async def remember_shortage(work: Work, deployment: Deployment) -> None:
    """The deployment ran out of what it was given: the next one gets more."""
    more = deployment.memory_limit_mb * _MORE_PERCENT // 100
    # The plan adds a tenth to what was measured.
    await remember(work, deployment, Peak(more * 10 // 11, 1))
