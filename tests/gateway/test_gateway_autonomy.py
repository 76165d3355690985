"""Envoy serves on while the services behind its configuration are away, and takes no harm when they return."""

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from mesh.pki import ensure_authority, issue_service
from tests.fakes.engine_http import running_engine
from tests.fixtures.edge import Edge, model_route, running_edge


async def test_killing_the_gateway_under_traffic_drops_nothing_and_its_return_changes_nothing(own_edge: Edge) -> None:
    edge = own_edge
    async with running_engine("a") as a, running_engine("b") as b:
        await edge.route(model_route(a))
        await edge.until_chat(200)
        statuses: list[int] = []
        over = asyncio.Event()

        async def client() -> None:
            while not over.is_set():
                statuses.append((await edge.chat()).status_code)

        async with asyncio.TaskGroup() as group:
            group.create_task(client())
            await edge.stop_gateway(kill=True)
            assert (await edge.client.get("/models", headers=edge.bearer())).status_code == 200
            updates = {name: await edge.stat(name) for name in UPDATES}
            await edge.start_gateway()
            await edge.until(lambda: is_connected(edge), seconds=15)
            # What is equal is not sent again: the new process knows nothing of the old one but says the same.
            await edge.route(model_route(a), model_route(b, model="second"))
            await edge.until_chat(200, "second")
            assert {name: await edge.stat(name) - before for name, before in updates.items()} == UPDATES
            over.set()
        assert set(statuses) == {200}


# How many resources of each kind one more model changes: the cluster is added, the routes are replaced, the rest stays.
UPDATES = {
    "cluster_manager.cluster_added": 1,
    "listener_manager.listener_modified": 0,
    "listener_manager.listener_added": 0,
}


async def test_a_gateway_that_knows_no_table_yet_takes_no_model_away(own_edge: Edge) -> None:
    edge = own_edge
    async with running_engine("a") as engine:
        await edge.route(model_route(engine))
        await edge.until_chat(200)
        await edge.stop_router()
        await edge.stop_controller()
        await edge.stop_gateway()
        await edge.start_gateway()
        await edge.until(lambda: is_connected(edge), seconds=15)
        for _ in range(20):
            assert (await edge.chat()).status_code == 200
        await edge.start_controller()
        await edge.plane.table.set(edge.table())
        await edge.start_router()
        await edge.until_chat(404)


async def test_models_are_served_while_controller_and_router_are_away(own_edge: Edge) -> None:
    edge = own_edge
    async with running_engine("a") as engine:
        await edge.route(model_route(engine))
        await edge.until_chat(200)
        await edge.stop_controller()
        await edge.stop_router()
        assert (await edge.chat()).status_code == 200
        away = await edge.client.get("/models", headers=edge.bearer())
        assert (away.status_code, away.json()["code"], away.json()["details"][0]["reason"]) == (503, 14, "UNAVAILABLE")
        await edge.start_controller()
        await edge.start_router()

        async def back() -> bool:
            return (await edge.client.get("/models", headers=edge.bearer())).status_code == 200

        await edge.until(back, seconds=10)
        async with running_engine("b") as b:
            await edge.route(model_route(b, model="second"))
            await edge.until_chat(200, "second", seconds=10)


async def test_a_fresh_envoy_does_not_open_before_it_can_check_tokens(own_edge: Edge) -> None:
    edge = own_edge
    await edge.stop_controller()
    await edge.stop_gateway()
    await edge.restart_envoy()
    await edge.start_gateway()
    await edge.until(lambda: is_connected(edge), seconds=15)
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", edge.port)
    await edge.start_controller()

    async def open_now() -> bool:
        try:
            return (await edge.client.get("/healthz")).status_code == 200
        except edge.connection_errors:
            return False

    await edge.until(open_now, seconds=10)
    assert (await edge.client.get("/models")).status_code == 401


async def test_several_envoys_get_the_same(own_edge: Edge) -> None:
    edge = own_edge
    async with running_engine("a") as engine, edge.second_envoy() as admin_port:
        assert await edge.metric("gateway_envoys") == 2
        await edge.route(model_route(engine))
        for port in (edge.admin_port, admin_port):

            async def has_the_replica(port: int = port) -> bool:
                return f"::127.0.0.1:{engine.port}::" in await edge.admin("/clusters", port)

            assert await edge.until(has_the_replica) < 1


async def is_connected(edge: Edge) -> bool:
    return await edge.metric("gateway_envoys") >= 1


async def test_with_a_certificate_the_port_speaks_tls_alone(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    ensure_authority(pki)
    certificate, key = issue_service(pki, "edge")
    tls = {"AIOPS_TLS_CERTIFICATE": str(certificate), "AIOPS_TLS_KEY": str(key)}
    async with running_edge(tmp_path, tls) as edge:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            url = f"https://127.0.0.1:{edge.port}"
            assert (await client.get(f"{url}/healthz")).status_code == 200
            assert (await client.get(f"{url}/models", headers=edge.bearer())).status_code == 200
        with pytest.raises(edge.connection_errors):
            await edge.client.get("/healthz")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-SHA")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", edge.port, ssl=context)
