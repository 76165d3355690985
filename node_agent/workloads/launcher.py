"""Gets a workload ready to run, and starts it: model, engine, port, process."""

import asyncio
import errno
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mesh.clock import Clock
from mesh.errors import DomainError
from node_agent.cache.model import Artifact, DiskFullError
from node_agent.cache.service import ModelCache
from node_agent.engines.engine import Diagnosis, Engine, EngineSpec, LaunchPlan
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
    ports: tuple[int, ...]


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
        self._ports: dict[WorkloadKey, tuple[int, ...]] = {}
        site.runs.mkdir(parents=True, exist_ok=True)

    async def prepare(self, spec: WorkloadSpec, tell: Tell) -> Prepared:
        """Brings the model, chooses engine and port, lays out the run directory. Raises DomainError."""
        if not spec.artifact.files:
            raise ModelMissingError(
                f"model {spec.model_id} has no files any more; import it again", model_id=spec.model_id
            )
        tell(State.DOWNLOADING, 0)
        await self._cache.obtain(spec.artifact, lambda percent: tell(State.DOWNLOADING, percent), spec.model_id)
        tell(State.EXTRACTING, 0)
        model_dir = await self._cache.lay_out(spec.artifact)
        tell(State.STARTING, 0)
        reading = await self._machine.read()
        engine = await self._engines.choose(spec.framework, spec.task, bool(spec.gpu_devices), reading.ram_free)
        ports = self._claim_ports(spec, 1 + len(engine.more_ports))
        cards = [gpu.memory_total for gpu in reading.gpus.devices if gpu.device_id in spec.gpu_devices]
        plan = engine.plan(self._engine_spec(spec, model_dir, engine, ports, sum(cards)))
        await asyncio.to_thread(_lay_out, plan)
        return Prepared(spec, engine, plan, ports)

    def spawn(self, prepared: Prepared) -> Process:
        """Starts the process, without waiting for anything. Raises LaunchError."""
        spec, plan = prepared.spec, prepared.plan
        log_path = self.log_path(spec.key)
        start = log_size(log_path)
        instance = self._runtime.start(
            Launch(plan.argv, plan.env, plan.cwd, log_path, self._mark(spec, prepared.engine.name, prepared.ports))
        )
        return Process(
            instance=instance,
            epoch=spec.epoch,
            engine=prepared.engine.name,
            port=prepared.ports[0],
            more_ports=prepared.ports[1:],
            started_at=self._clock.now(),
            readiness=_readiness(plan),
            facts=_facts(plan),
            log_start=start,
        )

    def describe(self, process: Process, spec: WorkloadSpec) -> Process:
        """A process that was found again without its record, with its facts once its specification is known."""
        engine = self._engines.named(process.engine)
        if engine is None:
            return process
        model_dir = self._cache.folder(spec.artifact)
        try:
            plan = engine.plan(self._engine_spec(spec, model_dir, engine, process.ports, 0))
        except DomainError as error:
            log.warning("workload %s runs, but nothing is known of its engine: %s", spec.key, error.message)
            return process
        return replace(process, facts=_facts(plan), readiness=_readiness(plan))

    def recognise(self, marked: Marked) -> tuple[WorkloadKey, Process] | None:
        """What a marked process is, None when its mark cannot be read."""
        try:
            name, replica, epoch, engine, listed = marked.mark.removeprefix(self._site.owner).split("/")
            key = WorkloadKey(WorkloadId(name), int(replica))
            port, *more = (int(each) for each in listed.split(","))
            health = f"http://{self._site.host}:{port}/health"
            process = Process(
                instance=marked.instance,
                epoch=int(epoch),
                engine=engine,
                port=port,
                started_at=self._clock.now(),
                readiness=Readiness(health, health),
                more_ports=tuple(more),
            )
            return key, process
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

    def reserve_ports(self, key: WorkloadKey, ports: tuple[int, ...]) -> None:
        """Promises the ports to the workload until it is cleaned away."""
        self._ports[key] = ports

    def log_path(self, key: WorkloadKey) -> Path:
        """Where the workload's engines write, all its life."""
        return self._run_dir(key) / _LOG

    def adapter_directory(self, key: WorkloadKey) -> Path:
        """Where the workload's engine finds its LoRA adapters; gone with the workload."""
        return self._run_dir(key) / "work" / "adapters"

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

    def _claim_ports(self, spec: WorkloadSpec, count: int) -> tuple[int, ...]:
        """The wanted port and as many free ones more, those that the workload had before where they can be had."""
        taken = {port for key, ports in self._ports.items() if key != spec.key for port in ports}
        before, claimed = self._ports.get(spec.key, ()), list[int]()
        for place in range(count):
            preferred = before[place] if place < len(before) else 0
            wanted = spec.port if place == 0 else 0
            claimed.append(claim_port(self._site.host, wanted, {*taken, *claimed}, preferred=preferred))
        self.reserve_ports(spec.key, tuple(claimed))
        return tuple(claimed)

    def _engine_spec(
        self, spec: WorkloadSpec, model_dir: Path, engine: Engine, ports: tuple[int, ...], device_memory_mb: int
    ) -> EngineSpec:
        return EngineSpec(
            served_name=spec.served_name,
            model_dir=model_dir,
            run_dir=self._run_dir(spec.key) / "work",
            host=self._site.host,
            port=ports[0],
            gpu_devices=spec.gpu_devices,
            memory_mb=spec.memory_limit_mb,
            device_memory_mb=device_memory_mb,
            options=spec.options,
            environment=spec.environment,
            more_ports=dict(zip(engine.more_ports, ports[1:], strict=False)),
        )

    def _run_dir(self, key: WorkloadKey) -> Path:
        return self._site.runs / f"{key.workload_id}.{key.replica}"

    def _mark(self, spec: WorkloadSpec, engine: str, ports: tuple[int, ...]) -> str:
        listed = ",".join(str(port) for port in ports)
        return f"{self._site.owner}{spec.key}/{spec.epoch}/{engine}/{listed}"


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
    return EngineFacts(plan.inference_path, plan.unsupported_fields, plan.private_paths, plan.grpc_port)
