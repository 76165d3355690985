"""Wires the agent together and runs it until it is told to end."""

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mesh.clock import Clock, SystemClock
from mesh.errors import DomainError, Kind
from mesh.failpoints import arm
from mesh.loops import run_loop
from mesh.rpc.addresses import Addresses
from mesh.telemetry import Telemetry, start_telemetry
from node_agent.cache.blobs import BlobStore
from node_agent.cache.service import ModelCache
from node_agent.cache.storage import Storage
from node_agent.cache.swarm import ALONE
from node_agent.engines.llamacpp_live import LlamaCppGauges
from node_agent.engines.triton_live import TritonGauges
from node_agent.engines.vllm_live import VllmAdapters, VllmGauges
from node_agent.enrollment.identity import Identity, IdentityStore
from node_agent.enrollment.renewal import Renewal
from node_agent.gauges import show
from node_agent.inventory.machine import Machine
from node_agent.inventory.nvml import MPS_PIPES, Nvml
from node_agent.journal.journal import Journal
from node_agent.peers.neighbours import Neighbours, Peer
from node_agent.peers.server import PeerServer, address_towards
from node_agent.runtime.docker.container import Limits
from node_agent.runtime.docker.engine import DockerEngine
from node_agent.runtime.docker.images import ImageRules, Images
from node_agent.runtime.docker.runtime import DockerRuntime
from node_agent.runtime.ports import bind_host
from node_agent.runtime.process import ProcessRuntime, boot_id
from node_agent.runtime.runtimes import Runtimes
from node_agent.session.client import Presence, SessionClient
from node_agent.session.exchange import Exchange
from node_agent.session.signing import Signer
from node_agent.session.statuses import StatusQueue
from node_agent.settings import DEFAULT_ADDRESS, AgentSettings
from node_agent.tunnel.choice import wants_tunnel
from node_agent.tunnel.model import Ends, Engine, Report
from node_agent.tunnel.program import find_envoy
from node_agent.tunnel.service import Tunnel
from node_agent.workloads.adapters import AdapterKeeper
from node_agent.workloads.containers import Bounds
from node_agent.workloads.installed import InstalledEngines
from node_agent.workloads.launcher import Launcher, Site
from node_agent.workloads.loads import Loads
from node_agent.workloads.model import EngineFacts, Patience, Process, State, WorkloadStatus
from node_agent.workloads.service import Workloads

log = logging.getLogger(__name__)

_MIB = 1024 * 1024


class AgentRunsAlreadyError(DomainError):
    """Another agent works in this home."""

    kind, reason = Kind.EXISTS, "NODE_EXISTS"


@contextmanager
def only_agent(home: Path) -> Iterator[None]:
    """Holds the home for this process, however it ends. Raises AgentRunsAlreadyError."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "agent.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise AgentRunsAlreadyError(
                f"an agent (pid {lock.read().strip() or 'unknown'}) works in {home} already; stop it, or use another "
                "AIOPS_NODE_HOME"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Agent:
    """The agent's parts, wired."""

    def __init__(
        self, settings: AgentSettings, identity: Identity, clock: Clock, patience: Patience | None = None
    ) -> None:
        store = IdentityStore(settings.home)
        target = settings.session_address or identity.session_address
        self._keep, self._name, self._node_id = settings.keep_workloads, settings.name, identity.node_id
        self.statuses = StatusQueue()
        self.tunnel = self._tunnel(settings, identity, clock)
        self.machine = Machine(settings.home, _nvml(settings), clock)
        self.engines = InstalledEngines(
            settings.engines,
            settings.environment,
            settings.engine_wait,
            settings.containers.images,
        )
        own = settings.address or address_towards(target.partition(",")[0])
        self.peers = PeerServer(own, settings.peer_port, store.tls, clock, enabled=settings.peers)
        self._neighbours = Neighbours(identity.node_id, self._ask_peers, self.peers.start, store.tls)
        self._blobs = BlobStore(settings.home / "cache", settings.cache_mb * _MIB)
        storage = Storage(Signer(Addresses(target), store.tls).sign, clock)
        self.cache = ModelCache(self._blobs, self._neighbours if settings.peers else ALONE, clock, storage)
        self.workloads = self._workloads(settings, clock, patience or _patience(settings))
        presence = Presence(
            identity.node_id,
            boot_id(),
            _version(),
            settings.address or DEFAULT_ADDRESS,
            (*self.engines.names(), *(["custom"] if settings.commands_allowed else [])),
            self._tunnel_report,
            self._offered_at,
        )
        self._exchange = Exchange(
            identity.node_id,
            self.workloads,
            self.statuses,
            self.machine,
            clock,
            self._tunnel_report,
            self.cache.models,
        )
        self.session = SessionClient(
            Addresses(target), store, presence, self.workloads, self.machine, self._exchange, clock
        )
        self.renewal = Renewal(store, Addresses(target), clock)

    def _workloads(self, settings: AgentSettings, clock: Clock, patience: Patience) -> Workloads:
        owner, bounds = f"{settings.home}#", Bounds(settings.containers.uid, settings.containers.gid)
        containers, images = _containers(settings, owner, bounds, clock)
        runtime = Runtimes(ProcessRuntime(), containers)
        address = DEFAULT_ADDRESS if self.tunnel else settings.address
        host = bind_host(address or DEFAULT_ADDRESS)
        site = Site(settings.home / "runs", host, owner, settings.commands_allowed, images, bounds)
        launcher = Launcher(site, self.cache, self.engines, runtime, self.machine, clock)
        journal = Journal(settings.home / "journal.json")
        adapters = AdapterKeeper(self.cache, {"vllm": VllmAdapters()})
        loads = Loads({"llamacpp": LlamaCppGauges(), "vllm": VllmGauges(), "triton": TritonGauges()}, clock)
        return Workloads(launcher, runtime, journal, self._tell, owner, patience, adapters, loads)

    def _tunnel(self, settings: AgentSettings, identity: Identity, clock: Clock) -> Tunnel | None:
        gateway = settings.gateway_address or identity.tunnel_address
        if not wants_tunnel(settings.tunnel, settings.address, gateway):
            return None
        ends = Ends(identity.node_id, gateway, connections=settings.tunnel_connections)
        program = find_envoy(settings.envoy, settings.environment.get("PATH", os.defpath))
        return Tunnel(settings.home, ends, program, ProcessRuntime(), self._reachable, clock)

    def _tunnel_report(self) -> Report | None:
        return self.tunnel.report if self.tunnel else None

    def _reachable(self) -> list[Engine]:
        """What requests may reach: the ports of this node's engines, those that answer and those that start."""
        live = (each for each in self.workloads.statuses() if each.state in {State.STARTING, State.RUNNING})
        return [engine for each in live if each.process for engine in _ports(each.key.workload_id, each.process)]

    def _tell(self, status: WorkloadStatus) -> None:
        # The tunnel knows an engine before the controller does, and so before any request for it comes.
        if self.tunnel:
            self.tunnel.wake.set()
        self.statuses.put(status)

    async def run(self, stopping: asyncio.Event, telemetry: Telemetry) -> None:
        """Until told to stop: the session first, so that nobody takes the stopping of workloads for a wish."""
        log.info("%s is node %s", self._name, self._node_id)
        await self.workloads.adopt()
        if self.tunnel:
            await self.tunnel.adopt()
        async with (
            self.peers.offering(self.cache, telemetry),
            aclosing(self._neighbours),
            asyncio.TaskGroup() as group,
        ):
            driving = group.create_task(self.workloads.run())
            talking = group.create_task(self.session.run())
            renewing = group.create_task(run_loop("certificate", self.renewal.step, interval=timedelta(minutes=1)))
            tasks = [talking, renewing, driving]
            if self.tunnel:
                tasks.append(group.create_task(self.tunnel.run()))
            await stopping.wait()
            for task in tasks:
                task.cancel()
        if self._keep:
            log.info("the workloads keep running")
        else:
            await self.workloads.stop_all()
            if self.tunnel:
                await self.tunnel.stop()

    async def _offered_at(self) -> str:
        """Where this node offers files, once it has some."""
        return self.peers.address if self._blobs.is_empty() else await self.peers.start()

    async def _ask_peers(self, model_id: str, peer_address: str) -> Sequence[Peer]:
        return await self._exchange.peers(model_id, peer_address)


async def run_agent(settings: AgentSettings, stopping: asyncio.Event) -> None:
    """Runs the agent of a joined node. Raises NotJoinedError."""
    arm(settings.failpoints)
    agent = Agent(settings, IdentityStore(settings.home).load(), SystemClock())
    telemetry = start_telemetry("node_agent", settings.observability)
    try:
        show(telemetry.meter, agent.session, agent.workloads, agent.statuses, agent.cache)
        await agent.run(stopping, telemetry)
    finally:
        telemetry.shutdown()


def _ports(workload_id: str, process: Process) -> list[Engine]:
    facts = process.facts or EngineFacts()
    plain = Engine(workload_id, process.port, single_use=facts.single_use_connections)
    return [plain, *([Engine(workload_id, facts.grpc_port, grpc=True)] if facts.grpc_port else [])]


def _containers(
    settings: AgentSettings, owner: str, bounds: Bounds, clock: Clock
) -> tuple[DockerRuntime | None, Images | None]:
    """The containers of this node, whether or not Docker Engine is there yet; none where the settings want none."""
    wanted = settings.containers
    if not wanted.url:
        return None, None
    engine = DockerEngine(wanted.url, expected=wanted.expected)
    rules = ImageRules((*wanted.allowed, *wanted.images.values()), wanted.keep, always=wanted.pull_always)
    images = Images(engine, settings.home / "images.json", rules, clock)
    return DockerRuntime(engine, images, owner, Limits(bounds.user, wanted.cpus, wanted.pids)), images


def _nvml(settings: AgentSettings) -> Nvml:
    return Nvml(mps=Path(settings.mps_pipes) if settings.mps_pipes else MPS_PIPES)


def _patience(settings: AgentSettings) -> Patience:
    return Patience(
        restart_limit=settings.restart_limit, start_limit=settings.start_limit, stop_grace=settings.stop_grace
    )


def _version() -> str:
    try:
        return version("aiops")
    except PackageNotFoundError:
        return "unknown"
