"""The services of the embedded stack, in the order of their starts."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stack.broker import Broker
from stack.enrollment import enroll
from stack.envoy import Envoy, drain
from stack.grpc_health import client_tls, serving_missing
from stack.home import Home
from stack.postgres import Postgres
from stack.probes import session_missing, sockets_missing
from stack.service import Service, nothing
from stack.settings import Settings

STORES, CONTROLLER, ROUTER, GATEWAY, EDGE, NODES = range(6)
DRAIN_S = 0.2
NODE_GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class Stack:
    """What the services are made from. `prepared` returns once certificates and Envoy's bootstrap are there."""

    home: Home
    settings: Settings
    prepared: Callable[[], Awaitable[None]]

    def services(self, nodes: int) -> Iterator[Service]:
        """Every service that runs here; an external database or broker is left to itself."""
        if self.settings.embedded_database:
            yield _postgres(Postgres.at(self.home.root))
        if self.settings.embedded_kafka:
            yield _broker(Broker(self.settings.ports.broker))
        yield self._controller()
        yield self._inference_router()
        yield self._gateway()
        yield self._realtime()
        yield self._envoy()
        for number in range(1, nodes + 1):
            yield self._node_agent(f"node-{number}", self.settings.ports.reserved.take())

    def _controller(self) -> Service:
        ports = self.settings.ports
        return Service(
            name="controller",
            stage=CONTROLLER,
            command=_module("controller"),
            environment=self._environment(ports.controller_metrics),
            missing=partial(serving_missing, ports.controller_api),
            address=f"127.0.0.1:{ports.controller_api}",
            needs=("postgres",) if self.settings.embedded_database else (),
            prepare=self.prepared,
        )

    def _inference_router(self) -> Service:
        ports = self.settings.ports
        return Service(
            name="inference_router",
            stage=ROUTER,
            command=_module("inference_router"),
            environment=self._environment(ports.router_metrics),
            missing=partial(_mesh_missing, ports.router_mesh, self.home.pki),
            address=f"127.0.0.1:{ports.router_mesh}",
            prepare=self.prepared,
        )

    def _gateway(self) -> Service:
        ports = self.settings.ports
        return Service(
            name="gateway",
            stage=GATEWAY,
            command=_module("gateway"),
            environment=self._environment(ports.gateway_metrics),
            missing=partial(serving_missing, ports.xds),
            address=f"127.0.0.1:{ports.xds}",
            prepare=self.prepared,
        )

    def _realtime(self) -> Service:
        ports = self.settings.ports
        return Service(
            name="realtime",
            stage=GATEWAY,
            command=_module("gateway.realtime"),
            environment=self._environment(ports.realtime_metrics),
            missing=partial(sockets_missing, ports.realtime),
            address=f"127.0.0.1:{ports.realtime}",
            prepare=self.prepared,
        )

    def _envoy(self) -> Service:
        ports = self.settings.ports
        envoy = Envoy(self.home.envoy_bootstrap, ports.gateway, ports.envoy_admin)
        return Service(
            name="envoy",
            stage=EDGE,
            command=tuple(envoy.command()),
            environment=envoy.environment(),
            missing=envoy.missing,
            address=self.settings.url,
            needs=("gateway",),
            prepare=self.prepared,
            wind_down=partial(drain, ports.envoy_admin, DRAIN_S),
        )

    def _node_agent(self, name: str, metrics_port: int) -> Service:
        environment = {
            **self._environment(metrics_port),
            "AIOPS_NODE_NAME": name,
            "AIOPS_NODE_HOME": str(self.home.node(name)),
            "AIOPS_NODE_KEEP_WORKLOADS": "0",
            "AIOPS_NODE_TUNNEL": self.settings.inherited.get("AIOPS_NODE_TUNNEL", "off"),
            "AIOPS_ENGINE_TRANSFORMERS": str(self.settings.transformers or self.home.transformers),
        }
        return Service(
            name=name,
            stage=NODES,
            command=_module("node_agent"),
            environment=environment,
            missing=partial(session_missing, metrics_port),
            address=f"127.0.0.1:{metrics_port}",
            needs=("controller",),
            prepare=partial(enroll, name, self.home, environment),
            grace_s=NODE_GRACE_S,
        )

    def _environment(self, metrics_port: int) -> dict[str, str]:
        return {**self.settings.service_environment, "AIOPS_METRICS_PORT": str(metrics_port)}


def _postgres(postgres: Postgres) -> Service:
    async def settle() -> None:
        await asyncio.to_thread(postgres.ensure_role)
        await asyncio.to_thread(postgres.ensure_database)

    async def missing() -> str:
        return "" if postgres.ready() else "PostgreSQL does not accept connections yet"

    return Service(
        name="postgres",
        stage=STORES,
        command=tuple(postgres.command()),
        environment=postgres.environment(),
        missing=missing,
        address="unix socket",
        prepare=partial(asyncio.to_thread, postgres.initialise),
        settle=settle,
        child_user=postgres.child_user,
        stop_signal=signal.SIGINT,
        wind_down=nothing,
    )


def _broker(broker: Broker) -> Service:
    return Service(
        name="broker",
        stage=STORES,
        command=tuple(broker.command()),
        environment=broker.environment(),
        missing=broker.missing,
        address=broker.bootstrap_servers,
    )


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


async def _mesh_missing(port: int, pki: Path) -> str:
    """What a listener lacks that asks for a certificate of the mesh."""
    return await serving_missing(port, client_tls(pki))
