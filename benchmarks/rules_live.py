"""How soon a change of a route counts beside thousands of models: `python -m benchmarks.rules_live [--changes N]`.

The whole way is the product's own, each part a process: controller and PostgreSQL, inference router, gateway and
Envoy. The models' deployments are rows of a node that is there, all of them answered by one small engine. A change is a
call of the API that makes a name lead to a model; it is live when Envoy answers a chat by that name. Peer: Envoy AI
Gateway says 5 s from a route to its being ready, published, not measured here.
Last line: rule_live_p50_s rule_live_p99_s.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
from aiops.iam.v1.auth_service_pb2 import LoginRequest
from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub
from aiops.routing.v1 import route_pb2, route_service_pb2
from aiops.routing.v1.route_service_pb2_grpc import RouteServiceStub

from benchmarks.fleet_controller import PASSWORD, ROOT, Controller, running_controller
from controller.deployments.model import Deployment, DeploymentId, DeploymentStatus, InstanceId, Observation
from controller.encodings import EVENTS
from controller.models.model import ModelId
from controller.nodes.model import Node, NodeId, NodeStatus
from controller.work import UnitOfWork
from gateway.edge import bootstrap
from mesh.clock import SystemClock
from mesh.identity import SYSTEM, UserId, new_id
from mesh.loops import Wake
from mesh.pki import issue_service
from mesh.rpc.channel import open_channel
from mesh.sql.database import Database
from stack.envoy import Envoy
from stack.ports import free_port
from tests.fakes.engine_http import running_engine

MODELS = 2_000
CHANGES = 40
LIMIT_S = 60.0
SETTLE_S = 0.3
POLL_S = 0.01
ENVOY_AI_GATEWAY_S = 5
QUESTION = [{"role": "user", "content": "hi"}]


@dataclass(slots=True)
class Way:
    """What a change goes through: the API's address, the port of Envoy, and the processes, by name."""

    controller: Controller
    port: int
    processes: dict[str, int]

    def cpu_s(self) -> dict[str, float]:
        """Seconds of processor time that each has used."""
        times = {name: psutil.Process(pid).cpu_times() for name, pid in self.processes.items()}
        return {name: used.user + used.system for name, used in times.items()}


async def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=CHANGES)
    parser.add_argument("--models", type=int, default=MODELS)
    options = parser.parse_args()
    delays = await measure_rules_live(options.models, options.changes)
    print(f"published, not measured here: Envoy AI Gateway takes {ENVOY_AI_GATEWAY_S} s from a route to ready")
    p50, p99 = quantile(delays, 0.5), quantile(delays, 0.99)
    print(json.dumps({"rule_live_p50_s": round(p50, 3), "rule_live_p99_s": round(p99, 3)}))


async def measure_rules_live(models: int = MODELS, changes: int = CHANGES) -> list[float]:
    """Seconds from the call of the API that changes a route until Envoy follows it, one for each change."""
    with running_controller() as controller:
        async with running_engine("a") as engine:
            await add_deployments(controller, models, engine.port)
            async with running_way(controller) as way, httpx.AsyncClient(trust_env=False) as client:
                return await _changes(way, client, changes, models)


async def _changes(way: Way, client: httpx.AsyncClient, changes: int, models: int) -> list[float]:
    async with open_channel(way.controller.api) as channel:
        login = LoginRequest(email="admin@localhost", password=PASSWORD)
        token = (await AuthServiceStub(channel).Login(login)).tokens.access_token
        client.headers["authorization"] = f"Bearer {token}"
        await _until_chat(way, client, f"model-{models - 1:04}")
        routes, delays = RouteServiceStub(channel), []
        before = way.cpu_s()
        for number in range(changes):
            target = route_pb2.RouteTarget(model=f"model-{number:04}", weight=1)
            wish = route_service_pb2.RouteWish(name=f"rule-{number}", targets=[target])
            request = route_service_pb2.CreateRouteRequest(route=wish)
            started = time.monotonic()
            await routes.CreateRoute(request, metadata=(("authorization", f"Bearer {token}"),))
            await _until_chat(way, client, wish.name)
            delays.append(time.monotonic() - started)
            # What a change leaves behind, a table on a disk, is not part of the next one.
            await asyncio.sleep(SETTLE_S)
        used = {name: (after - before[name]) / changes * 1000 for name, after in way.cpu_s().items()}
    each = ", ".join(f"{name} {ms:.0f} ms" for name, ms in used.items())
    p50, p99 = quantile(delays, 0.5), quantile(delays, 0.99)
    print(
        f"a change of a rule beside {models:,} models is live after {p50:.2f} s (p50), {p99:.2f} s (p99); processor "
        f"time of a change: {each}; load {os.getloadavg()[0]:.1f}"
    )
    return delays


async def add_deployments(controller: Controller, count: int, port: int) -> None:
    """Running deployments of as many models on one node that is there, as the controller keeps them."""
    database, now = Database(controller.database), SystemClock().now()
    unit_of_work = UnitOfWork(database, EVENTS, SystemClock(), Wake())
    async with unit_of_work(SYSTEM) as work:
        owner = await work.users.find("admin@localhost")
        assert owner is not None
        org = owner.org_id
        node = Node(NodeId(new_id("node")), "all", org, UserId("user-1"), now, now, agent_address="127.0.0.1")
        lease = now + timedelta(days=1)
        await work.nodes.add(replace(node, status=NodeStatus.ONLINE, lease_expires_at=lease, last_heartbeat=now))
        observed = Observation(port=port, inference_path="/v1/chat/completions", private_paths=("/load_model",))
        for number in range(count):
            made = Deployment(
                DeploymentId(new_id("dep")), InstanceId(f"i{number:04}"), org, UserId("user-1"),
                ModelId(f"model-{number:04}"), f"model-{number:04}", "vllm", "llm", node.node_id, "", (), 1, 0,
                new_id("req"), number + 1, now, now,
                status=DeploymentStatus.RUNNING, observed=observed, deployed_at=now,
            )  # fmt: skip
            await work.deployments.add(made)
        await work.commit()
    await database.dispose()


@asynccontextmanager
async def running_way(controller: Controller) -> AsyncIterator[Way]:
    """Inference router, gateway and Envoy behind the controller."""
    port, admin_port, xds = free_port(), free_port(), f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        "AIOPS_HOME": str(controller.home),
        "AIOPS_PORT": str(port),
        "AIOPS_XDS": xds,
        "AIOPS_KAFKA": controller.kafka,
        "AIOPS_CONTROLLER_API": controller.api,
        "AIOPS_CONTROLLER_MESH": controller.mesh,
        "AIOPS_ROUTER_MESH": f"127.0.0.1:{free_port()}",
    }
    file = controller.home / "envoy.json"
    file.write_text(bootstrap.render(xds=xds, admin=f"127.0.0.1:{admin_port}"))
    envoy = Envoy(file, port, admin_port)
    commands = {name: [sys.executable, "-m", name] for name in ("inference_router", "gateway")} | {
        "envoy": envoy.command()
    }
    for name in ("inference_router", "gateway"):
        issue_service(controller.home / "pki", name)
    assert controller.process is not None
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(_process(command, environment, controller.home / f"{name}.log"))
            for name, command in commands.items()
        }
        yield Way(controller, port, {"controller": controller.process.pid, **started})


@contextmanager
def _process(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[int]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _until_chat(way: Way, client: httpx.AsyncClient, model: str) -> None:
    """Returns when Envoy answers a chat by the name; ends the benchmark when it does not within LIMIT_S."""
    url, deadline, seen = f"http://127.0.0.1:{way.port}/v1/chat/completions", time.monotonic() + LIMIT_S, "no answer"
    while time.monotonic() < deadline:
        try:
            answer = await client.post(url, json={"model": model, "messages": QUESTION})
        except httpx.TransportError as error:
            seen = str(error)
        else:
            if answer.status_code == 200:
                return
            seen = f"{answer.status_code} {answer.text[:300]}"
        await asyncio.sleep(POLL_S)
    sys.exit(f"waited {LIMIT_S:.0f} s for an answer of {model}; the last was: {seen}")


def quantile(values: Sequence[float], share: float) -> float:
    """A value that so many are at most."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    asyncio.run(main())
