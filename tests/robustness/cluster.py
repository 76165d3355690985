"""A platform of real processes, each on a machine of its own: database, broker, controllers, edge and nodes."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.edge import bootstrap
from mesh.pki import ensure_authority, issue_service
from stack.broker import Broker, broker_count, metadata_request
from stack.envoy import Envoy
from stack.home import Home
from stack.postgres import Postgres
from stack.probes import SESSION_OPEN
from stack.processes import descendants, running_below
from tests.robustness.member import Member, module
from tests.robustness.network import Machine, Network

ROOT = Path(__file__).parents[2]
API, MESH, JOIN, ROUTER, XDS, PUBLIC, ADMIN, KAFKA, METRICS = 7080, 7081, 7082, 7083, 7084, 8080, 9901, 9092, 9100
LEASE_S, HEARTBEAT_S = 8, 1
# Engines here are ready at once or never, and a test does not wait for the seventh restart.
BRISK = {"AIOPS_NODE_START_LIMIT_S": "5", "AIOPS_NODE_RESTART_LIMIT": "2", "AIOPS_NODE_STOP_GRACE_S": "2"}
# What is full soon: the disk of the last node, and that of the database.
NODE_DISK_MB, DATABASE_DISK_MB = 48, 500
PASSWORD = "correct horse battery staple"


class Cluster:
    """The members by name. Everybody dials a virtual address for the controller, which `lead` points at one of them."""

    def __init__(self, nodes: int = 3, **environment: str) -> None:
        directory = Path(tempfile.mkdtemp(prefix="aiops-robustness-"))
        self.home = Home(directory / "home")
        self.home.create()
        directory.chmod(0o711)
        self.directory = directory
        self.network = Network()
        self.controller_address = self.network.virtual_address()
        self.machines = {name: self.network.machine(name) for name in ("store", "ctl-1", "ctl-2", "edge")}
        self.node_names = [f"node-{number}" for number in range(1, nodes + 1)]
        self.machines |= {name: self.network.machine(name) for name in self.node_names}
        self.postgres = Postgres.at(self.home.root)
        self._environment = {**BRISK, **environment}
        self.members: dict[str, Member] = {}
        # The API key of the first user, once somebody has asked for one.
        self.token = ""

    @property
    def url(self) -> str:
        """The gateway's one port."""
        return f"http://{self.machines['edge'].address}:{PUBLIC}"

    @property
    def kafka(self) -> str:
        return f"{self.machines['store'].address}:{KAFKA}"

    @property
    def controllers(self) -> list[str]:
        """Every address under which nodes may reach a controller."""
        return [self.machines["ctl-1"].address, self.machines["ctl-2"].address, self.controller_address]

    @property
    def nodes(self) -> list[Member]:
        return [self.members[name] for name in self.node_names]

    @property
    def controller(self) -> Member:
        """The first controller."""
        return self.members["ctl-1"]

    def start(self) -> None:
        """Everything but the second controller, and returns when all of it works."""
        _mount(self.postgres.data, DATABASE_DISK_MB)
        _mount(self.home.node(self.node_names[-1]), NODE_DISK_MB)
        self.postgres.initialise()
        self._prepare_certificates()
        for member in (self._postgres(), self._broker(), self._controller("ctl-1"), self._controller("ctl-2")):
            self.members[member.name] = member
        for member in (self._router(), self._gateway(), self._envoy()):
            self.members[member.name] = member
        for name in self.machines:
            self.lead(name, "ctl-1")
        self.members["broker"].spawn()
        self.members["postgres"].start()
        self.postgres.ensure_role()
        self.postgres.ensure_database()
        for name in ("ctl-1", "router", "gateway", "envoy"):
            self.members[name].spawn()
        self.controller.until_healthy()
        self._start_nodes()
        for member in self.members.values():
            if member.name != "ctl-2":
                member.until_healthy()

    def lead(self, machine: str, controller: str) -> None:
        """From now on this machine finds that controller when it dials; open connections stay where they are."""
        if machine not in {"store", controller}:
            self.machines[machine].forward(self.controller_address, self.machines[controller].address)
        if machine == controller:
            self.machines[machine].forward(self.controller_address, self.machines[machine].address)

    def heal(self) -> None:
        """Everybody runs as usual."""
        for machine in self.machines:
            self.lead(machine, "ctl-1")
        self.members["ctl-2"].stop()
        for member in self.members.values():
            if member.name != "ctl-2":
                if member.altered and member.alive:
                    member.kill()
                if not member.alive:
                    member.spawn()
        for member in self.members.values():
            if member.alive:
                member.until_healthy()

    def engines(self) -> dict[int, str]:
        """The marks of this cluster's engine processes by pid: `home#workload/replica/epoch/engine/port`."""
        found = {}
        for member in self.node_names:
            for process in running_below(self.home.node(member)):
                mark = _mark_of(process.pid)
                if mark:
                    found[process.pid] = mark
        return found

    def stop(self) -> None:
        """Nothing is left: no process, no namespace, no directory."""
        order = [*self.node_names, "envoy", "gateway", "router", "ctl-2", "ctl-1", "broker", "postgres"]
        members = [self.members[name] for name in order if name in self.members]
        for member in members:
            if member.alive:
                member.signal(signal.SIGCONT)
                member.signal(signal.SIGKILL if member.name != "postgres" else signal.SIGINT)
                member.wait()
        left = [process for name in self.node_names for process in running_below(self.home.node(name))]
        for process in left:
            for each in (process, *descendants(process.pid)):
                each.signal(signal.SIGKILL)
        self.network.remove()
        self.postgres.remove_sockets()
        for place in (self.postgres.data, self.home.node(self.node_names[-1])):
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _prepare_certificates(self) -> None:
        pki, edge = self.home.pki, self.machines["edge"].address
        ensure_authority(pki)
        issue_service(pki, "inference_router", (edge,))
        issue_service(pki, "gateway", (edge,))
        admin = f"{edge}:{ADMIN}"
        self.home.envoy_bootstrap.write_text(bootstrap.render(xds=f"127.0.0.1:{XDS}", admin=admin))

    def environment_of(self, machine: Machine) -> dict[str, str]:
        """What every program on the machine is told."""
        virtual = self.controller_address
        return {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
            "PYTHONUNBUFFERED": "1",
            "MALLOC_ARENA_MAX": "2",
            "AIOPS_HOME": str(self.home.root),
            "AIOPS_KAFKA": self.kafka,
            "AIOPS_DATABASE_URL": self.postgres.url(),
            "AIOPS_PKI": str(self.home.pki),
            "AIOPS_ADMIN_PASSWORD": PASSWORD,
            "AIOPS_CONTROLLER_API": f"{virtual}:{API}",
            "AIOPS_CONTROLLER_MESH": f"{virtual}:{MESH}",
            "AIOPS_CONTROLLER_JOIN": f"{virtual}:{JOIN}",
            "AIOPS_ROUTER_MESH": f"127.0.0.1:{ROUTER}",
            "AIOPS_XDS": f"127.0.0.1:{XDS}",
            "AIOPS_BIND": self.machines["edge"].address,
            "AIOPS_PORT": str(PUBLIC),
            "AIOPS_METRICS_HOST": machine.address,
            "AIOPS_METRICS_PORT": str(METRICS),
            "AIOPS_NODE_LEASE_SECONDS": str(LEASE_S),
            "AIOPS_NODE_HEARTBEAT_SECONDS": str(HEARTBEAT_S),
            **self._environment,
        }

    def _member(
        self, name: str, machine: str, command: list[str], healthy: Callable[[], bool], **environment: str
    ) -> Member:
        place = self.machines[machine]
        return Member(
            name=name,
            command=command,
            environment={**self.environment_of(place), **environment},
            log=self.home.log(name),
            healthy=healthy,
            machine=place,
        )

    def _postgres(self) -> Member:
        return Member(
            name="postgres",
            command=self.postgres.command(),
            environment=self.postgres.environment(),
            log=self.home.log("postgres"),
            healthy=self.postgres.ready,
            user=self.postgres.child_user,
            stop_signal=signal.SIGINT,
        )

    def _broker(self) -> Member:
        broker, address = Broker(KAFKA), self.machines["store"].address
        command = [part.replace("127.0.0.1", address) for part in broker.command()]
        return self._member("broker", "store", command, partial(_answers_kafka, address), **broker.environment())

    def _controller(self, name: str) -> Member:
        """Each with its own directory of certificates, for they listen on different addresses, and one authority."""
        address, pki = self.machines[name].address, self.home.root / f"pki-{name}"
        shutil.copytree(self.home.pki, pki)
        return self._member(
            name,
            name,
            module("controller"),
            partial(_serves, f"{address}:{API}"),
            AIOPS_PKI=str(pki),
            AIOPS_CONTROLLER_API=f"{address}:{API}",
            AIOPS_CONTROLLER_MESH=f"{address}:{MESH}",
            AIOPS_CONTROLLER_JOIN=f"{address}:{JOIN}",
            AIOPS_PUBLIC_MESH_ADDRESS=f"{self.controller_address}:{MESH}",
            AIOPS_PUBLIC_JOIN_URL=f"https://{self.controller_address}:{JOIN}",
        )

    def _router(self) -> Member:
        healthy = partial(_answers, f"http://{self.machines['edge'].address}:{METRICS}/metrics")
        return self._member("router", "edge", module("inference_router"), healthy)

    def _gateway(self) -> Member:
        metrics = METRICS + 1
        healthy = partial(_answers, f"http://{self.machines['edge'].address}:{metrics}/metrics")
        return self._member("gateway", "edge", module("gateway"), healthy, AIOPS_METRICS_PORT=str(metrics))

    def _envoy(self) -> Member:
        envoy = Envoy(self.home.envoy_bootstrap, PUBLIC, ADMIN)
        return self._member(
            "envoy", "edge", envoy.command(), partial(_answers, f"{self.url}/docs"), **envoy.environment()
        )

    def _start_nodes(self) -> None:
        joining = [self._join(name) for name in self.node_names]
        for name, code in [(name, process.wait(30)) for name, process in joining]:
            assert code == 0, f"{name} could not join:\n{self.members[name].tail()}"
            self.members[name].spawn()

    def _join(self, name: str) -> "tuple[str, subprocess.Popen[bytes]]":
        machine = self.machines[name]
        member = self._node(name)
        self.members[name] = member
        self.home.node(name).mkdir(mode=0o700, exist_ok=True)
        api = f"{self.controller_address}:{API}"
        command = module("stack.enrollment", name, str(self.home.root), api, f"{self.controller_address}:{JOIN}")
        with member.log.open("ab") as log:
            process = subprocess.Popen(machine.command(*command), env=dict(member.environment), stdout=log, stderr=log)
        return name, process

    def _node(self, name: str) -> Member:
        machine = self.machines[name]
        return self._member(
            name,
            name,
            module("node_agent"),
            partial(_has_session, f"http://{machine.address}:{METRICS}/metrics"),
            AIOPS_NODE_NAME=name,
            AIOPS_NODE_HOME=str(self.home.node(name)),
            AIOPS_NODE_ADDRESS=machine.address,
            AIOPS_ENGINE_TRANSFORMERS=str(_engine(self.directory)),
        )


def _mount(place: Path, size_mb: int) -> None:
    """A small disk of its own."""
    place.mkdir(mode=0o700, parents=True)
    options = f"size={size_mb}m,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "aiops-robustness", str(place)], check=True)


def _engine(directory: Path) -> Path:
    """An executable with the command line of `transformers`, which loads nothing."""
    path = directory / "bin" / "transformers"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {ROOT}/tests/fakes/engine.py "$@"\n')
    path.chmod(0o755)
    return path


def _mark_of(pid: int) -> str:
    try:
        parts = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((part[15:].decode() for part in parts if part.startswith(b"AIOPS_WORKLOAD=")), "")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _has_session(url: str) -> bool:
    try:
        return SESSION_OPEN.search(httpx.get(url, timeout=2, trust_env=False).content) is not None
    except httpx.HTTPError:
        return False


def _serves(target: str) -> bool:
    with grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _answers_kafka(address: str) -> bool:
    async def ask() -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection(address, KAFKA)
                writer.write(metadata_request())
                size = int.from_bytes(await reader.readexactly(4), "big")
                found = broker_count(await reader.readexactly(size)) > 0
                writer.close()
                return found
        except (OSError, asyncio.IncompleteReadError):
            return False

    return asyncio.run(ask())
