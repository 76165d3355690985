"""Wires the gateway."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
from aiops.credentials.v1 import credential_service_pb2, credential_service_pb2_grpc
from aiops.iam.v1 import auth_service_pb2, auth_service_pb2_grpc
from aiops.quotas.v1 import quota_service_pb2, quota_service_pb2_grpc
from aiops.routing.v1 import routing_service_pb2, routing_service_pb2_grpc

from gateway.edge.listener import NAME, public_listener
from gateway.edge.routes import api_routes
from gateway.edge.upstreams import API, REALTIME, WEB, api_cluster, realtime_cluster, web_cluster
from gateway.load.report import Reporter
from gateway.load.rpc import LoadReportingServicer
from gateway.load.tally import Tally
from gateway.load.waiting import WaitingRoom
from gateway.models.followed import Followed
from gateway.models.names import Names
from gateway.models.publisher import Publisher
from gateway.models.routes import RouteTable
from gateway.policies.clusters import MIRRORS, RELAY
from gateway.policies.mirrors import mirror_listener
from gateway.policies.relay import relay_listener
from gateway.quotas.publish import publish_limits, publish_none, publish_spent
from gateway.quotas.table import limits_from_proto
from gateway.settings import Settings
from gateway.tunnels import relay
from gateway.tunnels.doorway import controller_clusters, node_listener
from gateway.usage.forward import Forwarder
from gateway.usage.journal import Journal, path_in
from gateway.watch.alerts import Alerts
from gateway.watch.feed import Feed
from gateway.watch.secrets import publish_secrets
from gateway.watch.trust import publish_trust
from gateway.web.http import serve_http
from gateway.web.openai_files import FilesAndBatches
from gateway.web.pages import pages
from gateway.xds.cache import CLUSTERS, LISTENERS, Cache, resource
from gateway.xds.metrics import Metrics
from gateway.xds.rpc import DiscoveryServicer
from gateway.xds.server import serve
from mesh.clock import SystemClock
from mesh.events.kafka import Kafka
from mesh.events.publisher import KafkaPublisher
from mesh.loops import Wake, run_loop
from mesh.rpc.addresses import Addresses, follow
from mesh.rpc.channel import ClientTls
from mesh.telemetry import Telemetry, start_telemetry

log = logging.getLogger(__name__)
SWEEP = timedelta(seconds=1)
Step = Callable[[], Awaitable[timedelta | None]]


async def run(settings: Settings, stopping: asyncio.Event) -> None:
    """Serves Envoys until `stopping` is set."""
    telemetry = start_telemetry("gateway", settings.observability)
    cache, tally = Cache(), Tally(SystemClock())
    publisher, waiting = _publisher(cache, settings), WaitingRoom(tally.held)
    try:
        alerts = Alerts(Addresses(settings.controller_mesh), _tls(settings))
        discovery = DiscoveryServicer(cache, Metrics(telemetry.meter), alerts.refused)
        async with (
            _usage(settings, telemetry) as forwarder,
            waiting.serve(*_address(settings.waiting_room)) as room,
            _web(cache, settings),
            serve(settings.xds, discovery, LoadReportingServicer(tally)),
            aclosing(Reporter(Addresses(settings.controller_mesh), _tls(settings), tally)) as reporter,
        ):
            feeds = _feeds(cache, alerts, settings)
            feeds += _routing(settings, cache, publisher, Followers(room, tally, waiting))
            feeds += [("sweep", _sweep(publisher), Wake())]
            feeds += [("usage", forwarder.step, Wake()), ("load", reporter.step, tally.wake)]
            await _repeat(feeds, stopping)
    finally:
        telemetry.shutdown()


@asynccontextmanager
async def _usage(settings: Settings, telemetry: Telemetry) -> AsyncIterator[Forwarder]:
    def open_journal() -> Journal:
        return Journal(settings.usage_directory, most_bytes=settings.usage_most_bytes)

    forwarder = Forwarder(open_journal, KafkaPublisher(Kafka(settings.kafka)), telemetry.meter)
    try:
        yield forwarder
    finally:
        await forwarder.close()


@asynccontextmanager
async def _web(cache: Cache, settings: Settings) -> AsyncIterator[None]:
    host, port = _address(settings.web)
    async with serve_http(host, port, FilesAndBatches(Addresses(settings.controller_api))) as listening:
        cache.put(CLUSTERS, {WEB: resource(web_cluster(host, listening))})
        yield


def _journal(settings: Settings) -> Path | None:
    """Where Envoy is to write what requests used: nowhere when it could not, since it would then not serve at all."""
    path = path_in(settings.usage_directory)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        log.error("what requests use is not counted, AIOPS_USAGE_DIRECTORY cannot be written: %s", error)
        return None
    return path


def _publisher(cache: Cache, settings: Settings) -> Publisher:
    served = {API: api_cluster(settings.controller_api), REALTIME: realtime_cluster(settings.realtime)}
    cache.put(CLUSTERS, {name: resource(cluster) for name, cluster in served.items()})
    journal = _journal(settings)
    listeners = {
        NAME: public_listener(settings.bind, settings.port, settings.tls_certificate, settings.tls_key, journal),
        RELAY: relay_listener(),
        MIRRORS: mirror_listener(journal),
    }
    cache.put(LISTENERS, {name: resource(listener) for name, listener in listeners.items()})
    if settings.node_port:
        _open_tunnels(cache, settings)
    routes = RouteTable(api_routes(pages()), settings.cors_origins, settings.model_idle)
    publisher = Publisher(cache, routes, SystemClock(), settings.linger)
    publisher.guess()
    publish_none(cache)
    return publisher


def _open_tunnels(cache: Cache, settings: Settings) -> None:
    clusters = controller_clusters(settings.controller_mesh, settings.controller_join)
    clusters[relay.CLUSTER] = relay.tunnel_cluster(settings.pki)
    doorway = node_listener(settings.node_bind, settings.node_port, settings.pki)
    cache.put(CLUSTERS, {name: resource(cluster) for name, cluster in clusters.items()})
    cache.put(LISTENERS, {relay.NAME: resource(relay.relay_listener()), doorway.name: resource(doorway)})


@dataclass(frozen=True, slots=True)
class Followers:
    """Who takes each table besides the publisher: those who count, and the room where requests wait."""

    room: tuple[str, int]
    tally: Tally
    waiting: WaitingRoom


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    # What Envoy is told must be an address: it looks up names only for clusters that have nothing else.
    return socket.gethostbyname(host), int(port)


def _sweep(publisher: Publisher) -> Step:
    async def sweep() -> timedelta | None:
        return publisher.sweep()

    return sweep


def _feeds(cache: Cache, alerts: Alerts, settings: Settings) -> list[tuple[str, Step, Wake]]:
    tls, controllers = _tls(settings), Addresses(settings.controller_mesh)
    return [
        ("token trust", _trust(controllers, tls, cache).step, Wake()),
        ("provider secrets", _secrets(controllers, tls, cache).step, Wake()),
        ("spent quotas", _spent(controllers, tls, cache).step, Wake()),
        ("alerts", alerts.step, alerts.wake),
    ]


def _tls(settings: Settings) -> ClientTls:
    return ClientTls(settings.pki / "ca.crt", settings.pki / "gateway.crt", settings.pki / "gateway.key")


def _routing(
    settings: Settings, cache: Cache, publisher: Publisher, followers: Followers
) -> list[tuple[str, Step, Wake]]:
    def watch(router: grpc.aio.Channel) -> AsyncIterable[routing_service_pb2.WatchRoutingTableResponse]:
        stub = routing_service_pb2_grpc.RoutingServiceStub(router)
        return stub.WatchRoutingTable(routing_service_pb2.WatchRoutingTableRequest(changes=True))

    followed = Followed(followers.room)

    def apply(message: routing_service_pb2.WatchRoutingTableResponse) -> None:
        followed.take(message)
        if message.table.HasField("quotas") or not message.partial:
            publish_limits(cache, limits_from_proto(message.table.quotas))
        publish()

    def publish() -> None:
        models, policies = names.models(followed.models), names.policies(followed.policies)
        publisher.publish(models, policies)
        followers.tally.follow(models, policies)
        followers.waiting.follow(models, policies)

    names = Names(publish)
    routers, tls = Addresses(settings.router_mesh), _tls(settings)
    feed = Feed("routing table", lambda: follow(routers, tls, watch), apply)
    return [("routing table", feed.step, Wake()), ("names of nodes", names.step, names.wake)]


def _trust(controllers: Addresses, tls: ClientTls, cache: Cache) -> Feed[auth_service_pb2.WatchTokenTrustResponse]:
    def watch(controller: grpc.aio.Channel) -> AsyncIterable[auth_service_pb2.WatchTokenTrustResponse]:
        stub = auth_service_pb2_grpc.TokenTrustServiceStub(controller)
        return stub.WatchTokenTrust(auth_service_pb2.WatchTokenTrustRequest())

    return Feed("token trust", lambda: follow(controllers, tls, watch), lambda state: publish_trust(cache, state))


def _spent(controllers: Addresses, tls: ClientTls, cache: Cache) -> Feed[quota_service_pb2.WatchSpentQuotasResponse]:
    def watch(controller: grpc.aio.Channel) -> AsyncIterable[quota_service_pb2.WatchSpentQuotasResponse]:
        stub = quota_service_pb2_grpc.SpentQuotaServiceStub(controller)
        return stub.WatchSpentQuotas(quota_service_pb2.WatchSpentQuotasRequest())

    return Feed("spent quotas", lambda: follow(controllers, tls, watch), lambda state: publish_spent(cache, state))


def _secrets(
    controllers: Addresses, tls: ClientTls, cache: Cache
) -> Feed[credential_service_pb2.WatchProviderSecretsResponse]:
    def watch(controller: grpc.aio.Channel) -> AsyncIterable[credential_service_pb2.WatchProviderSecretsResponse]:
        stub = credential_service_pb2_grpc.ProviderSecretServiceStub(controller)
        return stub.WatchProviderSecrets(credential_service_pb2.WatchProviderSecretsRequest())

    return Feed(
        "provider secrets", lambda: follow(controllers, tls, watch), lambda state: publish_secrets(cache, state)
    )


async def _repeat(steps: list[tuple[str, Step, Wake]], stopping: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        loops = [group.create_task(run_loop(name, step, interval=SWEEP, wake=wake)) for name, step, wake in steps]
        await stopping.wait()
        for loop in loops:
            loop.cancel()
