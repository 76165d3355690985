"""The nodes' side of deployments: what each is to run, and what becomes of its reports."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from controller.deployments.model import Deployment, DeploymentId, DeploymentNotFoundError, DeploymentStatusChanged
from controller.deployments.observation import observe, remember_told, told, unheard_of
from controller.deployments.peaks import Peaks, remember_shortage
from controller.deployments.service import stopped
from controller.deployments.stores import UnitOfWork, Work
from controller.deployments.workload import (
    ArtifactFile,
    DesiredAdapter,
    DesiredChange,
    DesiredWorkload,
    Goal,
    WorkloadReport,
)
from controller.hints import Hints
from controller.models.model import Chunks, Model, ModelFile, ModelId, ModelNotFoundError
from controller.nodes.drain import Leaving
from controller.nodes.model import Container, NodeId, SessionSupersededError
from controller.nodes.standing import present
from mesh.failpoints import failpoint
from mesh.identity import SYSTEM, Caller

# An engine gets so long to finish what it was asked before its routes went.
DRAIN = timedelta(seconds=10)
_OUT_OF_MEMORY = "OUT_OF_MEMORY"


class Workloads:
    """Desired states and reports."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints
        self.peaks = Peaks(unit_of_work)

    def measure(self, containers: Sequence[Container]) -> None:
        """Takes in what a node's heartbeat says of its engines."""
        self.peaks.observe(containers)

    async def desired(self, node_id: NodeId, since: int | None) -> DesiredChange:
        """What changed after revision `since`; everything without one, or when the node knows more than there is."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            # The revision first: what changes meanwhile is told once more with the next one.
            revision = present(await work.standings.get(node_id), node_id).desired_revision
            if since is None or since > revision:
                whole = await _workloads(work, await work.deployments.on_node(node_id))
                return DesiredChange(revision, True, 0, whole)
            changed = await _workloads(work, await work.deployments.changed_since(node_id, since))
            return DesiredChange(revision, False, since, changed)

    async def file_on(self, node_id: NodeId, sha256: str) -> tuple[str, ModelFile] | None:
        """A file that the node's desired state names, and the URL that its object lies below; None for any other."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            wanted = _wanted(await work.deployments.on_node(node_id))
            for url, files in (await _stored(work, wanted)).values():
                for file in files:
                    if file.sha256 == sha256:
                        return url, file
        return None

    async def apply_report(self, report: WorkloadReport) -> None:
        """Stores what a node says of a workload, and tells of it. A workload that is unknown here is passed over.

        SessionSupersededError for a report of an older session.
        """
        async with self._unit_of_work(SYSTEM) as work:
            try:
                before = await work.deployments.get(DeploymentId(report.workload_id), SYSTEM, lock=True)
            except DeploymentNotFoundError:
                return
            # Read under the deployment's lock: what a newer session said before us is then seen to be newer.
            standing = present(await work.standings.get(report.node_id), report.node_id)
            if 0 < report.session_epoch < standing.session_epoch:
                raise SessionSupersededError(report.node_id)
            if before.node_id != report.node_id:
                return
            now = await work.nodes.now()
            after = observe(before, report, now)
            if after is before:
                return
            events = tuple(told(before, after, report, now))
            if report.error_reason == _OUT_OF_MEMORY and after.observed.error_message != before.observed.error_message:
                await remember_shortage(work, after)
            await work.deployments.save(remember_told(before.observed, after, now))
            await failpoint("report.stored")
            await work.commit(*events)
            await failpoint("report.committed")
        self._hints.replicas_changed()

    async def miss_unheard(self, node_id: NodeId, session_epoch: int) -> None:
        """The node has named all that it runs in a new session: what else it should run does not, a reboot ended it.

        SessionSupersededError when there is a newer session.
        """
        async with self._unit_of_work.reading(SYSTEM) as work:
            # In a storm most nodes have nothing, and no transaction is needed to see that.
            if not await work.deployments.on_node(node_id):
                return
        async with self._unit_of_work(SYSTEM) as work:
            held, events = await work.deployments.on_node(node_id, lock=True), list[object]()
            if not held:
                return
            now = await work.nodes.now()
            if present(await work.standings.get(node_id), node_id).session_epoch > session_epoch:
                raise SessionSupersededError(node_id)
            for before in held:
                after = unheard_of(before, session_epoch, now)
                if after is not before:
                    await work.deployments.save(after)
                if after.status is not before.status:
                    events.append(DeploymentStatusChanged(after, now))
            await work.commit(*events)
        self._hints.replicas_changed()

    async def count_on(self, caller: Caller, node_id: NodeId) -> int:
        """How many deployments deploy or run on the node."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.deployments.count_active_on(node_id)

    async def left_on(self, caller: Caller, node_id: NodeId) -> tuple[Leaving, ...]:
        """What deploys, runs or ends on the node."""
        async with self._unit_of_work.reading(caller) as work:
            held = await work.deployments.on_node(node_id)
        return tuple(
            Leaving(
                each.deployment_id,
                "ending" if each.goal is Goal.END else each.status.value,
                each.pinned and each.goal is Goal.RUN,
                each.status_reason,
            )
            for each in held
            if each.goal is Goal.END or each.active
        )

    async def end_on(self, caller: Caller, node_id: NodeId) -> None:
        """Stops every deployment on the node."""
        async with self._unit_of_work(caller) as work:
            events: list[object] = []
            for deployment in await work.deployments.on_node(node_id, lock=True):
                _, about_it = await stopped(work, deployment)
                events += about_it
            await work.commit(*events)
        self._hints.replicas_changed()
        self._hints.node_changed(node_id)


Stored = Mapping[tuple[ModelId, str], tuple[str, tuple[ModelFile, ...]]]
Artifacts = Mapping[tuple[ModelId, str], tuple[str, tuple[ArtifactFile, ...]]]


async def _workloads(work: Work, deployments: Sequence[Deployment]) -> tuple[DesiredWorkload, ...]:
    wanted = _wanted(deployments)
    artifacts = await _artifacts(work, wanted) if wanted else {}
    return tuple(_workload(each, artifacts) for each in deployments)


def _wanted(deployments: Sequence[Deployment]) -> set[tuple[ModelId, str]]:
    return {revision for each in deployments if each.goal is Goal.RUN for revision in _revisions(each)}


def _revisions(deployment: Deployment) -> list[tuple[ModelId, str]]:
    """What the deployment serves, the model first; an empty digest means the current revision."""
    adapters = [(adapter.model_id, adapter.digest) for adapter in deployment.adapters]
    return [(deployment.model_id, deployment.model_revision), *adapters]


async def _artifacts(work: Work, wanted: set[tuple[ModelId, str]]) -> Artifacts:
    """The storage's URL and the files of each revision, with their chunks."""
    stored = await _stored(work, wanted)
    chunks = await work.chunks.of({file.sha256 for _, files in stored.values() for file in files})
    return {
        asked: (url, tuple(_file(file, chunks.get(file.sha256)) for file in files))
        for asked, (url, files) in stored.items()
    }


async def _stored(work: Work, wanted: set[tuple[ModelId, str]]) -> Stored:
    """The storage's URL and the files of each revision; of a deleted model there is nothing left to fetch."""
    models = {model_id: await _model(work, model_id) for model_id in {model_id for model_id, _ in wanted}}
    exact = {(each, digest): (each, digest or model.digest) for each, digest in wanted if (model := models[each])}
    files = await work.revisions.files(set(exact.values())) if exact else {}
    return {
        asked: (model.storage_url, files[revision]) for asked, revision in exact.items() if (model := models[asked[0]])
    }


async def _model(work: Work, model_id: ModelId) -> Model | None:
    try:
        return await work.models.get(model_id, SYSTEM)
    except ModelNotFoundError:
        # A model may be deleted once all that is left of it has failed; its node then finds nothing to fetch.
        return None


def _workload(deployment: Deployment, artifacts: Artifacts) -> DesiredWorkload:
    own, *others = _revisions(deployment)
    url, files = artifacts.get(own, ("", ())) if deployment.goal is Goal.RUN else ("", ())
    return DesiredWorkload(
        workload_id=deployment.deployment_id,
        epoch=deployment.epoch,
        goal=deployment.goal,
        revision=deployment.revision,
        container_name=deployment.container_name,
        model_id=deployment.model_id,
        served_name=deployment.model_name,
        framework=deployment.framework,
        task=deployment.task,
        job_id=deployment.deployment_id,
        request_id=deployment.request_id,
        artifact_url=url,
        files=files,
        port=deployment.requested_port,
        gpu_devices=deployment.gpu_devices,
        memory_limit_mb=deployment.memory_limit_mb,
        image=deployment.image,
        environment=deployment.environment,
        program=deployment.program,
        context_tokens=deployment.options.context,
        max_concurrency=deployment.options.concurrency,
        drain_seconds=int(DRAIN.total_seconds()) if deployment.goal is Goal.END else 0,
        options=deployment.engine_options,
        adapters=tuple(
            DesiredAdapter(each.name, *artifacts[revision])
            for each, revision in zip(deployment.adapters, others, strict=True)
            if revision in artifacts
        ),
    )


def _file(file: ModelFile, chunks: Chunks | None) -> ArtifactFile:
    plain = ArtifactFile(file.path, file.size_bytes, file.sha256, object_path=file.object_path)
    return plain if chunks is None else replace(plain, chunk_bytes=chunks.size_bytes, chunk_sha256s=chunks.sha256s)
