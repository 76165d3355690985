"""What nodes are to run, kept in memory: stands in for deployments where a test is about sessions alone."""

from collections.abc import Sequence
from dataclasses import replace

from controller.deployments.workload import DesiredChange, DesiredWorkload, Goal, WorkloadReport
from controller.models.model import ModelFile
from controller.nodes.drain import Leaving
from controller.nodes.model import Container, NodeId
from controller.work import UnitOfWork
from mesh.identity import SYSTEM, Caller


class MemoryWorkloads:
    """Desired workloads per node under the node's own revisions, and every report as it came."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work
        self._wanted: dict[tuple[NodeId, str], DesiredWorkload] = {}
        self.reports: list[WorkloadReport] = []

    async def want(self, node_id: NodeId, workload_id: str, *, epoch: int = 1, goal: Goal = Goal.RUN) -> int:
        """Changes the node's desired state; answers its new revision."""
        async with self._unit_of_work(SYSTEM) as work:
            revision = await work.nodes.next_revision(node_id)
            await work.commit()
        self._wanted[node_id, workload_id] = DesiredWorkload(
            workload_id=workload_id,
            epoch=epoch,
            goal=goal,
            revision=revision,
            container_name=f"model-tiny-{workload_id}",
            model_id="model-1",
            served_name="tiny",
            framework="custom",
            task="llm",
            job_id="job-1",
            request_id="request-1",
        )
        return revision

    async def desired(self, node_id: NodeId, since: int | None) -> DesiredChange:
        async with self._unit_of_work.reading(SYSTEM) as work:
            revision = (await work.nodes.get(node_id, SYSTEM)).desired_revision
        after = 0 if since is None else since
        of_node = [each for (owner, _), each in self._wanted.items() if owner == node_id and each.revision > after]
        return DesiredChange(revision, since is None, after, tuple(of_node))

    async def file_on(self, node_id: NodeId, sha256: str) -> tuple[str, ModelFile] | None:
        return None

    async def apply_report(self, report: WorkloadReport) -> None:
        self.reports.append(replace(report))

    def measure(self, containers: Sequence[Container]) -> None:
        pass

    async def miss_unheard(self, node_id: NodeId, session_epoch: int) -> None:
        pass

    async def count_on(self, caller: Caller, node_id: NodeId) -> int:
        return sum(1 for (owner, _), each in self._wanted.items() if owner == node_id and each.goal is Goal.RUN)

    async def left_on(self, caller: Caller, node_id: NodeId) -> tuple[Leaving, ...]:
        of_node = (each for (owner, _), each in self._wanted.items() if owner == node_id)
        return tuple(
            Leaving(each.workload_id, "running" if each.goal is Goal.RUN else "ending", False, "") for each in of_node
        )

    async def end_on(self, caller: Caller, node_id: NodeId) -> None:
        for (owner, workload_id), each in list(self._wanted.items()):
            if owner == node_id and each.goal is Goal.RUN:
                await self.want(node_id, workload_id, epoch=each.epoch, goal=Goal.END)
