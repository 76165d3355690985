"""A fleet on one controller: what it costs, how fast commands arrive, and how it comes back after a crash.

`python -m benchmarks.fleet [--agents N] [--steady SECONDS] [--commands N]`. The controller, PostgreSQL (durable), the
broker, and for routes the gateway and Envoy are the product's own processes; the agents speak the real protocol over a
TLS stream each, from one process on the same machine, and run nothing. Peers: GPUStack gives a node 300 s before its
work is placed anew, dstack says 1,000 instances for one server replica; both are published figures, not measured here.
Last line: agents command_p99_ms storm_s controller_mb routes_apply_s plan_p99_ms replaced_s.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from aiops.iam.v1.auth_service_pb2 import LoginRequest
from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub
from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub
from aiops.nodes.v1 import node_session_service_pb2 as session_pb

from benchmarks.fleet_agents import BACKOFF, Deliveries, SimulatedAgent
from benchmarks.fleet_controller import PASSWORD, Controller, highest_memory_mb, running_controller
from benchmarks.fleet_plan import measure_plan
from controller.encodings import EVENTS
from controller.nodes.model import Node, NodeId
from controller.work import UnitOfWork
from mesh.clock import SystemClock
from mesh.identity import SYSTEM, OrgId, UserId, new_id
from mesh.loops import Wake
from mesh.pki import SpiffeId, create_request, ensure_authority
from mesh.rpc.channel import ClientTls, open_channel
from mesh.sql.database import Database
from tests.fakes.engine_http import running_engine
from tests.fakes.model_files import tiny_model, upload
from tests.fixtures.edge import model_route, running_edge

if TYPE_CHECKING:
    from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceAsyncStub

GPUSTACK_REPLACE_S = 300
DSTACK_INSTANCES = 1_000
ROUTES = 2_000
JOINING_PER_S = 50
LIMIT_S = 120.0
CERTIFICATE_LIFETIME = timedelta(days=1)
RUN, END = session_pb.WorkloadSpec.run, session_pb.WorkloadSpec.end


@dataclass(slots=True)
class Fleet:
    """The agents, what they heard, and a way to ask the controller."""

    controller: Controller
    agents: list[SimulatedAgent]
    deliveries: Deliveries
    tasks: list["asyncio.Task[None]"]
    stack: AsyncExitStack
    metadata: tuple[tuple[str, str], ...] = ()

    async def connected(self) -> float:
        """Seconds until every agent has a session whose heartbeat was answered."""
        return await until(lambda: all(agent.open for agent in self.agents), "every agent to have a session")

    async def deployments(self) -> "DeploymentServiceAsyncStub":
        """The service, as the first user."""
        channel = await self.stack.enter_async_context(open_channel(self.controller.api))
        tokens = await AuthServiceStub(channel).Login(LoginRequest(email="admin@localhost", password=PASSWORD))
        self.metadata = (("authorization", f"Bearer {tokens.tokens.access_token}"),)
        return DeploymentServiceStub(channel)


async def main() -> None:
    """Measures and prints."""
    # A pause of the agents' process would pass for one of the controller's.
    gc.set_threshold(100_000, 50, 50)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--steady", type=float, default=30, help="seconds to look at a fleet that only heartbeats")
    parser.add_argument("--commands", type=int, default=200)
    options = parser.parse_args()
    figures: dict[str, float | int | None] = {"agents": options.agents}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    with running_controller() as controller:
        async with AsyncExitStack() as stack:
            fleet = await assemble(controller, options.agents, stack)
            print(f"{options.agents} agents connected after {await fleet.connected():.1f} s")
            await steady(fleet, options.steady)
            figures["command_p99_ms"] = await commands(fleet, options.commands)
            figures["storm_s"], figures["controller_mb"] = await storm(fleet)
            figures["replaced_s"] = await replaced(fleet)
            for task in fleet.tasks:
                task.cancel()
            await asyncio.gather(*fleet.tasks, return_exceptions=True)
    figures["routes_apply_s"] = await routes_apply()
    figures["plan_p99_ms"] = measure_plan()
    print(f"published, not measured here: GPUStack places a lost node's work anew after {GPUSTACK_REPLACE_S} s, ")
    print(f"dstack says {DSTACK_INSTANCES:,} instances for one server replica")
    names = ["agents", "command_p99_ms", "storm_s", "controller_mb", "routes_apply_s", "plan_p99_ms", "replaced_s"]
    print(json.dumps({name: figures[name] for name in names}))


async def assemble(controller: Controller, count: int, stack: AsyncExitStack) -> Fleet:
    """Nodes in the database, a certificate for each, and an agent behind each."""
    node_ids = [NodeId(new_id("node")) for _ in range(count)]
    org = await organization(controller)
    await add_nodes(controller, node_ids, org)
    folder, authority, request = controller.home / "nodes", ensure_authority(controller.home / "pki"), create_request()
    folder.mkdir()
    (folder / "node.key").write_bytes(request.key_pem)
    deliveries, agents = Deliveries(), []
    for node_id in node_ids:
        issued = authority.issue_from_request(request.der, SpiffeId("node", node_id), CERTIFICATE_LIFETIME)
        (folder / f"{node_id}.crt").write_bytes(issued.pem)
        tls = ClientTls(controller.home / "pki" / "ca.crt", folder / f"{node_id}.crt", folder / "node.key")
        agents.append(SimulatedAgent(node_id, tls, controller.mesh, deliveries, BACKOFF))
    # Machines are switched on one after another; that all of them come at once is what the storm is for.
    spread = count / JOINING_PER_S
    tasks = [asyncio.create_task(agent.run(spread * index / count)) for index, agent in enumerate(agents)]
    return Fleet(controller, agents, deliveries, tasks, stack)


async def organization(controller: Controller) -> OrgId:
    """The first user's."""
    from sqlalchemy import text

    database = Database(controller.database)
    async with database.reading(SYSTEM) as connection:
        org = (await connection.execute(text("SELECT org_id FROM users LIMIT 1"))).scalar_one()
    await database.dispose()
    return OrgId(org)


async def add_nodes(controller: Controller, node_ids: Sequence[NodeId], org: OrgId) -> None:
    """Registered nodes, as the controller keeps them."""
    database, now = Database(controller.database), SystemClock().now()
    unit_of_work = UnitOfWork(database, EVENTS, SystemClock(), Wake())
    async with unit_of_work(SYSTEM) as work:
        for number, node_id in enumerate(node_ids):
            await work.nodes.add(Node(node_id, f"gpu-{number}", org, UserId("user-1"), now, now))
        await work.commit()
    await database.dispose()


async def steady(fleet: Fleet, seconds: float) -> None:
    """What the controller costs while nothing happens but heartbeats."""
    await asyncio.sleep(min(10.0, seconds))
    before, beats, started = fleet.controller.cpu_s(), sum(agent.beats for agent in fleet.agents), time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - started
    share = (fleet.controller.cpu_s() - before) / elapsed
    rate = (sum(agent.beats for agent in fleet.agents) - beats) / elapsed
    print(
        f"steady: {share * 100:.0f} % of one core, {fleet.controller.memory_mb():.0f} MB, {rate:.0f} heartbeats/s "
        f"({share / rate * 1000 if rate else 0:.2f} ms each), load {os.getloadavg()[0]:.1f}"
    )


async def commands(fleet: Fleet, count: int) -> float:
    """Milliseconds (p99) from a change of a node's desired state to its agent."""
    service = await fleet.deployments()
    channel = await fleet.stack.enter_async_context(open_channel(fleet.controller.api))
    await ModelServiceStub(channel).ImportModel(upload("tiny", tiny_model()), metadata=fleet.metadata)
    delays, step = [], max(1, len(fleet.agents) // count)
    for agent in (fleet.agents * count)[: count * step : step]:
        request = deployments_pb.CreateDeploymentRequest(model_id="tiny", node_id=agent.node_id)
        made = (await service.CreateDeployment(request, metadata=fleet.metadata)).deployment
        told = await fleet.deliveries.of(made.deployment_id, 1, RUN, LIMIT_S)
        delays.append(told - made.created_at.ToNanoseconds() / 1e9)
        stop = deployments_pb.StopDeploymentRequest(deployment_id=made.deployment_id)
        ended = (await service.StopDeployment(stop, metadata=fleet.metadata)).deployment
        told = await fleet.deliveries.of(made.deployment_id, 1, END, LIMIT_S)
        delays.append(told - ended.stopped_at.ToNanoseconds() / 1e9)
    p50, p99 = quantile(delays, 0.5) * 1000, quantile(delays, 0.99) * 1000
    print(f"{len(delays)} commands: p50 {p50:.1f} ms, p99 {p99:.1f} ms, load {os.getloadavg()[0]:.1f}")
    return round(p99, 1)


async def storm(fleet: Fleet) -> tuple[float, float]:
    """Seconds from the start of a killed controller until every agent is back, and the memory that took."""
    fleet.controller.kill()
    await until(lambda: not any(agent.open for agent in fleet.agents), "every agent to notice")
    started, healed = time.monotonic(), asyncio.Event()
    fleet.controller.start()
    memory = asyncio.create_task(highest_memory_mb(fleet.controller, healed))
    await fleet.connected()
    seconds = time.monotonic() - started
    healed.set()
    most = await memory
    busy = fleet.controller.cpu_s()
    print(
        f"storm: every agent back after {seconds:.1f} s, of which the controller was busy for {busy:.1f} s "
        f"({busy / len(fleet.agents) * 1000:.1f} ms an agent), at most {most:.0f} MB, load {os.getloadavg()[0]:.1f}"
    )
    return round(seconds, 1), round(most)


async def replaced(fleet: Fleet) -> float:
    """Seconds from the end of a lost node's lease until another node was told to run its deployment."""
    service = await fleet.deployments()
    request = deployments_pb.CreateDeploymentRequest(model_id="tiny")
    made = (await service.CreateDeployment(request, metadata=fleet.metadata)).deployment
    await fleet.deliveries.of(made.deployment_id, 1, RUN, LIMIT_S)
    number = next(index for index, agent in enumerate(fleet.agents) if agent.node_id == made.node_id)
    fleet.tasks[number].cancel()
    told = await fleet.deliveries.of(made.deployment_id, 2, RUN, LIMIT_S)
    seconds = told - fleet.agents[number].lease_expires_at
    print(f"replaced {seconds:.1f} s after the lease ended; load {os.getloadavg()[0]:.1f}")
    return round(seconds, 2)


async def routes_apply() -> float:
    """Seconds until Envoy serves one more model beside 2,000."""
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as home:
        async with running_edge(Path(home)) as edge, running_engine("a") as engine:
            routes = [model_route(engine, model=f"model-{number:04}") for number in range(ROUTES - 1)]
            await edge.route(*routes)
            await edge.until_chat(200, f"model-{ROUTES - 2}", seconds=30)
            started = time.monotonic()
            await edge.route(*routes, model_route(engine, model="one-more"))
            await edge.until_chat(200, "one-more", seconds=30)
            seconds = time.monotonic() - started
    print(f"a change to {ROUTES:,} routes serves after {seconds:.2f} s, load {os.getloadavg()[0]:.1f}")
    return round(seconds, 2)


async def until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until the condition holds; ends the benchmark when it does not within LIMIT_S."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > LIMIT_S:
            sys.exit(f"waited {LIMIT_S:.0f} s for {what}")
        await asyncio.sleep(0.02)
    return time.monotonic() - started


def quantile(values: Sequence[float], share: float) -> float:
    """A value that so many are at most."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    asyncio.run(main())
