"""What the gateway needs of controller and router: feeds, and a few API methods, behind the real rpc kernel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from aiops.credentials.v1 import credential_service_pb2, credential_service_pb2_grpc
from aiops.deployments.v1 import deployment_service_pb2, deployment_service_pb2_grpc
from aiops.iam.v1 import auth_service_pb2, auth_service_pb2_grpc, user_pb2
from aiops.models.v1 import model_pb2, model_service_pb2, model_service_pb2_grpc
from aiops.nodes.v1 import node_service_pb2, node_service_pb2_grpc
from aiops.quotas.v1 import quota_service_pb2, quota_service_pb2_grpc
from aiops.routing.v1 import (
    alert_service_pb2,
    alert_service_pb2_grpc,
    load_service_pb2,
    load_service_pb2_grpc,
    routing_service_pb2,
    routing_service_pb2_grpc,
)
from aiops.system.v1 import system_service_pb2, system_service_pb2_grpc

from mesh.clock import SystemClock
from mesh.errors import NotFoundError, UnauthenticatedError
from mesh.rpc.authenticator import PeerAuthenticator, TokenAuthenticator
from mesh.rpc.server import Listener, ServerTls, serve
from mesh.settings import Observability
from mesh.telemetry import start_telemetry
from mesh.tokens import TokenVerifier

State = TypeVar("State")


class Feed(Generic[State]):
    """The newest state, and a signal for whoever streams it."""

    def __init__(self, state: State | None = None) -> None:
        self._state = state
        self._changed = asyncio.Condition()
        self._version = 0 if state is None else 1

    async def set(self, state: State) -> None:
        """Replaces the state."""
        async with self._changed:
            self._state, self._version = state, self._version + 1
            self._changed.notify_all()

    async def states(self) -> AsyncIterator[State]:
        """The state, then every later one."""
        seen = 0
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._version > seen)  # noqa: B023 - read at once
                seen, state = self._version, self._state
            assert state is not None
            yield state


@dataclass(slots=True)
class ControlPlane:
    """The feeds, and where the servers listen."""

    trust: Feed[auth_service_pb2.WatchTokenTrustResponse] = field(default_factory=Feed)
    spent: Feed[quota_service_pb2.WatchSpentQuotasResponse] = field(default_factory=Feed)
    secrets: Feed[credential_service_pb2.WatchProviderSecretsResponse] = field(default_factory=Feed)
    table: Feed[routing_service_pb2.RoutingTable] = field(default_factory=Feed)
    metadata: list[dict[str, str]] = field(default_factory=list)
    uploaded: int = 0
    refusals: list[tuple[str, str]] = field(default_factory=list)
    # The last load that was told of each replica set.
    loads: dict[str, load_service_pb2.SetLoad] = field(default_factory=dict)
    api: str = ""
    controller_mesh: str = ""
    router_mesh: str = ""


class _Trust(auth_service_pb2_grpc.TokenTrustServiceServicer):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def WatchTokenTrust(
        self, request: Any, context: Any
    ) -> AsyncIterator[auth_service_pb2.WatchTokenTrustResponse]:
        async for state in self._plane.trust.states():
            yield state


class _Secrets(credential_service_pb2_grpc.ProviderSecretServiceServicer):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def WatchProviderSecrets(
        self, request: Any, context: Any
    ) -> AsyncIterator[credential_service_pb2.WatchProviderSecretsResponse]:
        async for state in self._plane.secrets.states():
            yield state


class _Spent(quota_service_pb2_grpc.SpentQuotaServiceServicer):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def WatchSpentQuotas(
        self, request: Any, context: Any
    ) -> AsyncIterator[quota_service_pb2.WatchSpentQuotasResponse]:
        async for state in self._plane.spent.states():
            yield state


class _Alerts(alert_service_pb2_grpc.RoutingAlertServiceServicer):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def ReportRefusal(self, request: Any, context: Any) -> alert_service_pb2.ReportRefusalResponse:
        self._plane.refusals.append((request.subject, request.reason))
        return alert_service_pb2.ReportRefusalResponse()


class _Loads(load_service_pb2_grpc.LoadServiceServicer):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def ReportLoad(self, request: Any, context: Any) -> load_service_pb2.ReportLoadResponse:
        self._plane.loads |= {each.replica_set_id: each for each in request.loads}
        return load_service_pb2.ReportLoadResponse()


class _Routing(routing_service_pb2_grpc.RoutingServiceServicer):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def WatchRoutingTable(
        self, request: Any, context: Any
    ) -> AsyncIterator[routing_service_pb2.WatchRoutingTableResponse]:
        async for table in self._plane.table.states():
            yield routing_service_pb2.WatchRoutingTableResponse(table=table)


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def ListModels(self, request: Any, context: Any) -> model_service_pb2.ListModelsResponse:
        self._plane.metadata.append({str(key): str(value) for key, value in context.invocation_metadata()})
        return model_service_pb2.ListModelsResponse(models=[model_pb2.Model(name="tiny")])

    async def GetModel(self, request: Any, context: Any) -> model_service_pb2.GetModelResponse:
        raise NotFoundError(f"there is no model {request.model_id}", model_id=request.model_id)

    async def ImportModel(self, request: Any, context: Any) -> model_service_pb2.ImportModelResponse:
        async for message in request:
            self._plane.uploaded += len(message.chunk)
        return model_service_pb2.ImportModelResponse(model=model_pb2.Model(name="uploaded"))


class _Nodes(node_service_pb2_grpc.NodeServiceServicer):
    async def RegisterNode(self, request: Any, context: Any) -> node_service_pb2.RegisterNodeResponse:
        return node_service_pb2.RegisterNodeResponse()


class _Deployments(deployment_service_pb2_grpc.DeploymentServiceServicer):
    async def FollowDeploymentLogs(
        self, request: Any, context: Any
    ) -> AsyncIterator[deployment_service_pb2.FollowDeploymentLogsResponse]:
        for line in ("one\n", "two\n"):
            yield deployment_service_pb2.FollowDeploymentLogsResponse(logs=line)


class _Auth(auth_service_pb2_grpc.AuthServiceServicer):
    async def Login(self, request: Any, context: Any) -> auth_service_pb2.LoginResponse:
        if request.password != "right":
            raise UnauthenticatedError("wrong e-mail address or password")
        return auth_service_pb2.LoginResponse(tokens=user_pb2.TokenPair(access_token="the-token"))


class _System(system_service_pb2_grpc.SystemServiceServicer):
    async def GetHealth(self, request: Any, context: Any) -> system_service_pb2.GetHealthResponse:
        return system_service_pb2.GetHealthResponse(version="1")


@asynccontextmanager
async def controller(plane: ControlPlane, pki: Path, verifier: TokenVerifier) -> AsyncIterator[None]:
    """Serves the API and the token feed, at the ports of the last time when there was one."""
    authenticator = TokenAuthenticator(verifier, PeerAuthenticator(SystemClock()))
    telemetry = start_telemetry("controller", Observability(metrics_port=None))
    listeners = [
        Listener(plane.api or "127.0.0.1:0"),
        Listener(plane.controller_mesh or "127.0.0.1:0", _tls(pki, "controller")),
    ]
    # Only what the gateway's tests call is there.
    servicers = [
        _Trust(plane),
        _Alerts(plane),
        _Loads(plane),
        _Secrets(plane),
        _Spent(plane),
        _Models(plane),  # type: ignore[abstract]
        _Nodes(),  # type: ignore[abstract]
        _Deployments(),  # type: ignore[abstract]
        _Auth(),  # type: ignore[abstract]
        _System(),  # type: ignore[abstract]
    ]
    async with serve(listeners, servicers, authenticator, telemetry.rpc, grace=0.1) as server:
        plane.api, plane.controller_mesh = (f"127.0.0.1:{port}" for port in server.ports)
        yield
    telemetry.shutdown()


@asynccontextmanager
async def router(plane: ControlPlane, pki: Path) -> AsyncIterator[None]:
    """Serves the routing feed."""
    telemetry = start_telemetry("inference_router", Observability(metrics_port=None))
    listener = Listener(plane.router_mesh or "127.0.0.1:0", _tls(pki, "inference_router"))
    async with serve(
        [listener], [_Routing(plane)], PeerAuthenticator(SystemClock()), telemetry.rpc, grace=0.1
    ) as server:
        plane.router_mesh = f"127.0.0.1:{server.ports[0]}"
        yield
    telemetry.shutdown()


def _tls(pki: Path, name: str) -> ServerTls:
    return ServerTls(pki / f"{name}.crt", pki / f"{name}.key", pki / "ca.crt")
