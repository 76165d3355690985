"""What a real Envoy refuses: it keeps the last good configuration, the gateway hears why and counts it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from gateway.edge import bootstrap
from gateway.xds.cache import CLUSTERS, Cache, Resource, resource
from gateway.xds.metrics import Metrics
from gateway.xds.rpc import DiscoveryServicer
from gateway.xds.server import serve
from stack.envoy import Envoy
from stack.ports import free_port
from stack.probes import http_get


def cluster(name: str, connect_timeout_s: int) -> Resource:
    built = cluster_pb2.Cluster(name=name, type="STATIC")
    built.connect_timeout.seconds = connect_timeout_s
    return resource(built)


async def test_a_refused_cluster_changes_nothing_and_a_mended_one_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, reader = Cache(), InMemoryMetricReader()
    told = list[tuple[str, str]]()
    cache.put(CLUSTERS, {"one": cluster("one", 1)})
    metrics = Metrics(MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))
    admin_port, file = free_port(), tmp_path / "envoy.json"
    async with serve(
        "127.0.0.1:0", DiscoveryServicer(cache, metrics, lambda kind, why: told.append((kind, why)))
    ) as xds_port:
        file.write_text(bootstrap.render(xds=f"127.0.0.1:{xds_port}", admin=f"127.0.0.1:{admin_port}"))
        envoy = Envoy(file, 0, admin_port)
        process = await asyncio.create_subprocess_exec(
            *envoy.command(), env=envoy.environment(), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await until_timeout_is(admin_port, "1s")
            # A timeout of nothing is against Envoy's rules.
            cache.put(CLUSTERS, {"one": cluster("one", -1), "two": cluster("two", 2)})

            async def refused() -> bool:
                return refusals(reader) > 0

            await until(refused)
            assert "keeps what it had" in caplog.text
            await until_timeout_is(admin_port, "1s")
            assert refusals(reader) == 1
            assert [kind for kind, _ in told] == [CLUSTERS]
            cache.put(CLUSTERS, {"one": cluster("one", 3)})
            await until_timeout_is(admin_port, "3s")
        finally:
            process.kill()
            await process.wait()


def refusals(reader: InMemoryMetricReader) -> int:
    data = reader.get_metrics_data()
    scopes = [scope for resources in (data.resource_metrics if data else []) for scope in resources.scope_metrics]
    found = [metric.data for scope in scopes for metric in scope.metrics if metric.name == "gateway.refusals"]
    return sum(int(point.value) for each in found if isinstance(each, Sum) for point in each.data_points)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - what is asked lies in another process
            await asyncio.sleep(0.01)


async def until_timeout_is(admin_port: int, timeout: str) -> None:
    """Waits until Envoy's own dump shows the cluster with this connect timeout."""

    async def shown() -> bool:
        _, page = await http_get(admin_port, "/config_dump?resource=dynamic_active_clusters")
        return f'"connect_timeout": "{timeout}"'.encode() in page

    await until(shown)
