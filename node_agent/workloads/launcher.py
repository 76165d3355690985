"""Gets a workload ready to run, and starts it: model, engine, port, process."""

import asyncio
import errno
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mesh.clock import Clock
from mesh.errors import DomainError
from node_agent.cache.model import Artifact, DiskFullError
from node_agent.cache.service import ModelCache
from node_agent.engines.diagnosis import in_image
from node_agent.engines.engine import Diagnosis, Engine, EngineSpec, LaunchPlan
from node_agent.engines.prepare import prepare
from node_agent.inventory.machine import Machine
from node_agent.inventory.model import Reading
from node_agent.runtime.docker.images import ENGINE_LABEL, Images
from node_agent.runtime.model import Containment, Launch, LaunchError, Marked, Runtime
from node_agent.runtime.output import log_size, read_tail, trim_log
from node_agent.runtime.ports import claim_port
from node_agent.workloads.commands import check_command, check_environment
from node_agent.workloads.containers import INSIDE, Bounds, contain, devices_inside, hand_over, seen_from_outside
from node_agent.workloads.downloads import Downloads
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

# Told what it does, the percent, and in words what is worth knowing of it.
Tell = Callable[[State, int, str], None]
_TAIL_BYTES = 8 * 1024
_LOG = "engine.log"
_KEPT_LOGS = 50
# The framework whose models bring their own server.
_OWN = "custom"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything but the process."""

    spec: WorkloadSpec
    engine: Engine
    plan: LaunchPlan
    ports: tuple[int, ...]
    containment: Containment | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """Where workloads live on this machine: their directory, the address their engines listen on, the node's mark.

    `commands` are patterns of programs that deployments may run as the agent's user. `images` bring containers' images;
    without them there are no containers. `bounds` are who runs in those.
    """

    runs: Path
    host: str
    owner: str
    commands: tuple[str, ...] = ()
    images: Images | None = None
    bounds: Bounds | None = None


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
        """Brings image and model, chooses engine and port, lays out the run directory. Raises DomainError."""
        if not spec.artifact.files:
            raise ModelMissingError(
                f"model {spec.model_id} has no files any more; import it again", model_id=spec.model_id
            )
        downloads = Downloads(lambda percent, detail: tell(State.DOWNLOADING, percent, detail))
        label = await self._obtain_image(spec, downloads)
        await self._cache.obtain(spec.artifact, downloads.model, spec.model_id)
        tell(State.EXTRACTING, 0, "")
        model_dir = await self._cache.lay_out(spec.artifact)
        tell(State.STARTING, 0, "")
        reading = await self._machine.read()
        engine = await self._engine(spec, label, reading)
        ports = self._claim_ports(spec, 1 + len(engine.more_ports))
        gpus = {gpu.device_id: gpu for gpu in reading.gpus.devices}
        cards = [gpus[device] for device in spec.gpu_devices if device in gpus]
        # What the engine sees is named as CUDA names it, which knows slices by their UUID only.
        seen = replace(spec, gpu_devices=tuple(gpu.cuda_name for gpu in cards) or spec.gpu_devices)
        plan = self._plan(engine, seen, model_dir, ports, sum(gpu.memory_total for gpu in cards))
        work_dir = self._work_dir(spec.key)
        box = contain(spec, plan, self._site.host, ports, model_dir, work_dir, gpus) if spec.image else None
        await asyncio.to_thread(self._lay_out, plan, spec)
        return Prepared(spec, engine, plan, ports, box)

    async def spawn(self, prepared: Prepared) -> Process:
        """Starts the process or the container. Raises LaunchError, RuntimeAwayError."""
        spec, plan = prepared.spec, prepared.plan
        log_path = self.log_path(spec.key)
        start = log_size(log_path)
        mark = self._mark(spec, prepared.engine.name, prepared.ports)
        instance = await self._runtime.start(
            Launch(plan.argv, plan.env, plan.cwd, log_path, mark, prepared.containment)
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
        engine = self._engine_of(process)
        if engine is None:
            return process
        try:
            plan = self._plan(engine, spec, self._cache.folder(spec.artifact), process.ports, 0)
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

    def diagnose(self, process: Process, code: int | None, tail: str, image: str) -> Diagnosis | None:
        """The engine's own judgement of its end."""
        engine = self._engine_of(process)
        found = engine.diagnose(code, tail) if engine else None
        return in_image(found, image) if found and image else found

    def hold(self, artifact: Artifact) -> None:
        self._cache.hold(artifact)

    def release(self, artifact: Artifact) -> None:
        self._cache.release(artifact)

    def reserve_ports(self, key: WorkloadKey, ports: tuple[int, ...]) -> None:
        """Promises the ports to the workload until it is cleaned away."""
        self._ports[key] = ports

    def images(self) -> Mapping[str, str]:
        """The images that this node's settings name, by engine."""
        return self._engines.images

    def log_path(self, key: WorkloadKey) -> Path:
        """Where the workload's engines write, all its life."""
        return self._run_dir(key) / _LOG

    def adapter_directory(self, key: WorkloadKey) -> Path:
        """Where the workload's engine finds its LoRA adapters; gone with the workload."""
        return self._work_dir(key) / "adapters"

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

    async def _obtain_image(self, spec: WorkloadSpec, downloads: Downloads) -> str:
        """Has the workload's image here; which engine it says that it holds."""
        if not spec.image:
            return ""
        if self._site.images is None:
            raise LaunchError(f"this node runs no containers, so it cannot run image {spec.image}")
        return (await self._site.images.obtain(spec.image, downloads.image)).get(ENGINE_LABEL, "")

    async def _engine(self, spec: WorkloadSpec, label: str, reading: Reading) -> Engine:
        if spec.image:
            return self._engines.in_image(spec.image, label, spec.framework)
        check_environment(spec.environment, self._site.commands)
        if spec.framework == _OWN:
            check_command(spec.program.command, self._site.commands)
            return self._engines.own()
        return await self._engines.choose(spec.framework, spec.task, bool(spec.gpu_devices), reading.ram_free)

    def _engine_of(self, process: Process) -> Engine | None:
        if process.instance.runtime != "process":
            return self._engines.named_in_image(process.engine)
        return self._engines.own() if process.engine == _OWN else self._engines.named(process.engine)

    def _plan(
        self, engine: Engine, spec: WorkloadSpec, model_dir: Path, ports: tuple[int, ...], device_memory_mb: int
    ) -> LaunchPlan:
        engine_spec = EngineSpec(
            served_name=spec.served_name,
            model_dir=model_dir,
            run_dir=self._work_dir(spec.key),
            host=INSIDE if spec.image else self._site.host,
            port=ports[0],
            gpu_devices=devices_inside(spec) if spec.image else spec.gpu_devices,
            memory_mb=spec.memory_limit_mb,
            device_memory_mb=device_memory_mb,
            options=spec.options,
            environment=spec.environment,
            more_ports=dict(zip(engine.more_ports, ports[1:], strict=False)),
            program=spec.program,
        )
        plan = engine.plan(engine_spec)
        return seen_from_outside(plan, self._site.host) if spec.image else plan

    def _lay_out(self, plan: LaunchPlan, spec: WorkloadSpec) -> None:
        try:
            prepare(plan)
            if spec.image and self._site.bounds:
                hand_over(self._work_dir(spec.key), self._site.bounds)
        except OSError as error:
            kind = DiskFullError if error.errno in {errno.ENOSPC, errno.EDQUOT} else LaunchError
            raise kind(f"cannot lay out {plan.cwd}: {error.strerror}", path=str(plan.cwd)) from error

    def _work_dir(self, key: WorkloadKey) -> Path:
        return self._run_dir(key) / "work"

    def _run_dir(self, key: WorkloadKey) -> Path:
        return self._site.runs / f"{key.workload_id}.{key.replica}"

    def _mark(self, spec: WorkloadSpec, engine: str, ports: tuple[int, ...]) -> str:
        listed = ",".join(str(port) for port in ports)
        return f"{self._site.owner}{spec.key}/{spec.epoch}/{engine}/{listed}"


def _readiness(plan: LaunchPlan) -> Readiness:
    return Readiness(
        plan.health.url, plan.ready.url, plan.ready.body.decode(), plan.ready.timeout_s, plan.ready_timeout_s
    )


def _facts(plan: LaunchPlan) -> EngineFacts:
    return EngineFacts(
        plan.inference_path,
        plan.unsupported_fields,
        plan.private_paths,
        plan.grpc_port,
        plan.single_use_connections,
    )
