"""The two sides of the router's benchmark: the same upstream behind each, with tokens, quotas and usage on."""

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from aiops.quotas.v1 import quota_pb2
from aiops.routing.v1 import routing_service_pb2 as routing

from benchmarks.peer import MASTER_KEY, constant_upstream, litellm
from benchmarks.upstream import MODEL
from stack.broker import Broker
from stack.ports import free_port
from tests.fakes.eventually import eventually
from tests.fixtures.broker import start_broker
from tests.fixtures.edge import ORG, Edge, running_edge

CHAT = "/v1/chat/completions"
# The longest that telling Kafka of a load's usage may take.
TOLD_S = 300.0
NEVER_REACHED = 100_000_000


@dataclass(frozen=True, slots=True)
class Side:
    """One way to the upstream: where it is asked, and which processes it costs."""

    name: str
    url: str
    headers: Mapping[str, str]
    pids: Sequence[int] = ()

    def cpu_s(self) -> float:
        """The seconds of processor time that its processes have used."""
        return sum(sum(each.cpu_times()[:2]) for each in self._processes())

    def memory_mb(self) -> float:
        """Their resident memory."""
        return sum(float(each.memory_info().rss) for each in self._processes()) / 1e6

    def _processes(self) -> list[psutil.Process]:
        roots = [psutil.Process(pid) for pid in self.pids]
        return [*roots, *(child for root in roots for child in root.children(recursive=True))]


@dataclass(frozen=True, slots=True)
class Sides:
    """The upstream itself, ours and the peer before it."""

    direct: Side
    ours: Side
    peer: Side
    edge: Edge

    async def usage_told(self) -> None:
        """Returns when Kafka has the usage of every request so far, which is part of what requests cost."""

        async def none_waits() -> bool:
            return await self.edge.metric("gateway_usage_waiting") == 0

        await eventually(none_waits, TOLD_S)


@asynccontextmanager
async def running_sides() -> AsyncIterator[Sides]:
    """Everything up and answering."""
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as scratch:
        home, broker = Path(scratch), Broker(free_port())
        kafka = start_broker(broker, home / "broker.log")
        try:
            async with (
                constant_upstream() as upstream,
                running_edge(home, {"AIOPS_KAFKA": broker.bootstrap_servers}) as edge,
                litellm(home, upstream, policed=True) as proxy,
            ):
                await _serve(edge, upstream)
                assert edge.envoy is not None
                assert edge.gateway is not None
                yield Sides(
                    Side("direct", f"http://127.0.0.1:{upstream}{CHAT}", {}),
                    Side("aiops", f"{edge.url}{CHAT}", edge.bearer(exp=2**33), [edge.envoy.pid, edge.gateway.pid]),
                    Side(
                        "litellm",
                        f"http://127.0.0.1:{proxy.port}{CHAT}",
                        {"authorization": f"Bearer {MASTER_KEY}"},
                        [proxy.pid],
                    ),
                    edge,
                )
        finally:
            kafka.terminate()
            kafka.wait(timeout=30)


async def _serve(edge: Edge, upstream: int) -> None:
    target = routing.Target(
        deployment_id="dep-1", instance_id="one", node_id="node-1", address="127.0.0.1", port=upstream,
        inference_path=CHAT, weight=1,
    )  # fmt: skip
    table = edge.table()
    table.routes.add(org_id=ORG, model=MODEL, targets=[target])
    table.quotas.CopyFrom(quotas())
    await edge.plane.table.set(table)
    await edge.until_chat(200, MODEL, seconds=30)


def quotas() -> routing.QuotaRules:
    """A quota a minute, an hour and a day for the user and the organisation, so high that nothing is refused."""
    subjects = {quota_pb2.Quota.user: "user-1", quota_pb2.Quota.organization: ORG}
    return routing.QuotaRules(
        rules=[
            routing.QuotaRule(
                org_id=ORG,
                subject=subject,
                subject_id=subject_id,
                requests_per_minute=NEVER_REACHED,
                requests_per_hour=NEVER_REACHED,
                requests_per_day=NEVER_REACHED,
            )
            for subject, subject_id in subjects.items()
        ]
    )
