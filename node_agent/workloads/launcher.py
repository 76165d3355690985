"""Gets a workload ready to run, and starts it: model, engine, port, process."""

import asyncio
import errno
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mesh.clock import Clock
from mesh.errors import DomainError
from node_agent.cache.model import Artifact, DiskFullError
from node_agent.cache.service import ModelCache
from node_agent.engines.engine import Diagnosis, Engine, EngineOptions, EngineSpec, LaunchPlan
from node_agent.engines.prepare import prepare
from node_agent.inventory.machine import Machine
from node_agent.runtime.model import Launch, LaunchError, Marked, Runtime
from node_agent.runtime.output import log_size, read_tail, trim_log
from node_agent.runtime.ports import claim_port
from node_agent.workloads.installed import InstalledEngines
from node_agent.workloads.model import (
    EngineFacts,
    ModelMissingError,
    Process,
    Readiness,
    State,
    WorkloadId,
    WorkloadKey,
    WorkloadSpec,
)

log = logging.getLogger(__name__)

Tell = Callable[[State, int], None]
_TAIL_BYTES = 8 * 1024
_LOG = "engine.log"
_KEPT_LOGS = 50


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything but the process."""

    spec: WorkloadSpec
    engine: Engine
    plan: LaunchPlan
    port: int


@dataclass(frozen=True, slots=True)
class Site:
    """Where workloads live on this machine: their directory, the address their engines listen on, the node's mark."""

    runs: Path
    host: str
    owner: str


class Launcher:
    """Starts workloads. Use from one event loop."""

    def __init__(
        self, site: Site, cache: ModelCache, engines: InstalledEngines, runtime: Runtime, machine: Machine, clock: Clock
    ) -> None:
        self._site = site
        self._cache, self._engines, self._runtime, self._machine = cache, engines, runtime, machine
        self._clock = clock
        self._ports: dict[WorkloadKey, int] = {}
        site.runs.mkdir(parents=True, exist_ok=True)

    async def prepare(self, spec: WorkloadSpec, tell: Tell) -> Prepared:
        """Brings the model, chooses engine and port, lays out the run directory. Raises DomainError."""
        if not spec.artifact.files:
            raise ModelMissingError(
                f"model {spec.model_id} has no files any more; import it again", model_id=spec.model_id
            )
        tell(State.DOWNLOADING, 0)
        await self._cache.obtain(spec.artifact, lambda percent: tell(State.DOWNLOADING, percent))
        tell(State.EXTRACTING, 0)
        model_dir = await self._cache.lay_out(spec.artifact)
        tell(State.STARTING, 0)
        reading = await self._machine.read()
        engine = await self._engines.choose(spec.framework, spec.task, bool(spec.gpu_devices), reading.ram_free)
        port = self._claim_port(spec)
        cards = [gpu.memory_total for gpu in reading.gpus.devices if gpu.device_id in spec.gpu_devices]
        plan = engine.plan(self._engine_spec(spec, model_dir, port, sum(cards)))
        await asyncio.to_thread(_lay_out, plan)
        return Prepared(spec, engine, plan, port)

    def spawn(self, prepared: Prepared) -> Process:
        """Starts the process, without waiting for anything. Raises LaunchError."""
        spec, plan = prepared.spec, prepared.plan
        log_path = self.log_path(spec.key)
        start = log_size(log_path)
        instance = self._runtime.start(
            Launch(plan.argv, plan.env, plan.cwd, log_path, self._mark(spec, prepared.engine.name, prepared.port))
        )
        return Process(
            instance=instance,
            epoch=spec.epoch,
            engine=prepared.engine.name,
            port=prepared.port,
            started_at=self._clock.now(),
            readiness=_readiness(plan),
            facts=_facts(plan),
            log_start=start,
        )

    def describe(self, process: Process, spec: WorkloadSpec) -> EngineFacts | None:
        """The facts of a process that was found again without its record, once its specification is known."""
        engine = self._engines.named(process.engine)
        if engine is None:
            return None
        model_dir = self._cache.folder(spec.artifact)
        try:
            return _facts(engine.plan(self._engine_spec(spec, model_dir, process.port, 0)))
        except DomainError as error:
            log.warning("workload %s runs, but nothing is known of its engine: %s", spec.key, error.message)
            return None

    def recognise(self, marked: Marked) -> tuple[WorkloadKey, Process] | None:
        """What a marked process is, None when its mark cannot be read."""
        try:
            name, replica, epoch, engine, port = marked.mark.removeprefix(self._site.owner).split("/")
            key = WorkloadKey(WorkloadId(name), int(replica))
            origin = f"http://{self._site.host}:{int(port)}"
            readiness = Readiness(f"{origin}/health", f"{origin}/health")
            return key, Process(marked.instance, int(epoch), engine, int(port), self._clock.now(), readiness)
        except ValueError:
            return None

    def diagnose(self, process: Process, code: int | None, tail: str) -> Diagnosis | None:
        """The engine's own judgement of its end."""
        engine = self._engines.named(process.engine)
        return engine.diagnose(code, tail) if engine else None

    def hold(self, artifact: Artifact) -> None:
        self._cache.hold(artifact)

    def release(self, artifact: Artifact) -> None:
        self._cache.release(artifact)

    def reserve_port(self, key: WorkloadKey, port: int) -> None:
        """Promises the port to the workload until it is cleaned away."""
        self._ports[key] = port

    def log_path(self, key: WorkloadKey) -> Path:
        """Where the workload's engines write, all its life."""
        return self._run_dir(key) / _LOG

    def tail(self, key: WorkloadKey, since: int) -> str:
        """The end of what was written since then."""
        return read_tail(self.log_path(key), since, _TAIL_BYTES)

    def clean(self, key: WorkloadKey, log_keep_bytes: int) -> None:
        """Leaves nothing of an ended workload but the end of its log, and of those only the latest. Blocks."""
        self._ports.pop(key, None)
        trim_log(self.log_path(key), log_keep_bytes)
        run_dir = self._run_dir(key)
        for each in run_dir.iterdir() if run_dir.exists() else ():
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
        ended = [each for each in self._site.runs.iterdir() if not (each / "work").exists()]
        for each in sorted(ended, key=lambda path: path.stat().st_mtime)[:-_KEPT_LOGS]:
            shutil.rmtree(each, ignore_errors=True)

    def _claim_port(self, spec: WorkloadSpec) -> int:
        taken = {port for key, port in self._ports.items() if key != spec.key}
        port = claim_port(self._site.host, spec.port, taken, preferred=self._ports.get(spec.key, 0))
        self.reserve_port(spec.key, port)
        return port

    def _engine_spec(self, spec: WorkloadSpec, model_dir: Path, port: int, device_memory_mb: int) -> EngineSpec:
        return EngineSpec(
            served_name=spec.served_name,
            model_dir=model_dir,
            run_dir=self._run_dir(spec.key) / "work",
            host=self._site.host,
            port=port,
            gpu_devices=spec.gpu_devices,
            memory_mb=spec.memory_limit_mb,
            device_memory_mb=device_memory_mb,
            options=EngineOptions(context_length=spec.context_tokens, max_concurrency=spec.max_concurrency),
            environment=spec.environment,
        )

    def _run_dir(self, key: WorkloadKey) -> Path:
        return self._site.runs / f"{key.workload_id}.{key.replica}"

    def _mark(self, spec: WorkloadSpec, engine: str, port: int) -> str:
        return f"{self._site.owner}{spec.key}/{spec.epoch}/{engine}/{port}"


def _lay_out(plan: LaunchPlan) -> None:
    try:
        prepare(plan)
    except OSError as error:
        kind = DiskFullError if error.errno in {errno.ENOSPC, errno.EDQUOT} else LaunchError
        raise kind(f"cannot lay out {plan.cwd}: {error.strerror}", path=str(plan.cwd)) from error


def _readiness(plan: LaunchPlan) -> Readiness:
    return Readiness(
        plan.health.url, plan.ready.url, plan.ready.body.decode(), plan.ready.timeout_s, plan.ready_timeout_s
    )


def _facts(plan: LaunchPlan) -> EngineFacts:
    return EngineFacts(plan.inference_path, plan.unsupported_fields, plan.private_paths)
