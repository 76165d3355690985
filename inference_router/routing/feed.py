"""Follows the controller's replicas; while it is away the last table stays in force."""

import logging
from collections.abc import AsyncIterable, Iterable
from contextlib import aclosing
from datetime import timedelta

import grpc
from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.deployments.v1.deployment_service_pb2_grpc import ReplicaServiceStub
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from inference_router.routing.service import Routing
from inference_router.routing.told import Told
from mesh.clock import Clock
from mesh.loops import Backoff
from mesh.rpc.addresses import Addresses, follow
from mesh.rpc.channel import ClientTls

log = logging.getLogger(__name__)
RETRY = Backoff(first=timedelta(milliseconds=50), limit=timedelta(seconds=1))


class ReplicaFeed:
    """The stream from the controller, opened again whenever it ends."""

    def __init__(self, controllers: Addresses, tls: ClientTls, routing: Routing, clock: Clock) -> None:
        self._controllers, self._tls = controllers, tls
        self._routing = routing
        self._clock = clock
        self._failures = 0
        self._away_since: float | None = clock.monotonic()

    async def step(self) -> timedelta:
        """Follows one stream to its end; answers how long to wait before the next."""
        told = Told()
        try:
            async with aclosing(follow(self._controllers, self._tls, _replicas)) as messages:
                async for message in messages:
                    self._heard()
                    told.take(message)
                    await self._routing.follow(told.replicas, told.routes, told.sleepy, told.quotas)
        except grpc.aio.AioRpcError as error:
            self._lost(error.details() or error.code().name)
        else:
            self._lost("the stream ended")
        return RETRY.pause(self._failures)

    def observe(self, meter: Meter) -> None:
        """Tells how old the table may be, and how much is in it."""
        meter.create_observable_gauge(
            "routing.staleness", [self._staleness], unit="s", description="How long the controller has been away."
        )
        meter.create_observable_gauge("routing.models", [self._models], description="Routed model names.")
        meter.create_observable_gauge("routing.targets", [self._targets], description="Routed instances.")
        meter.create_observable_gauge(
            "routing.watchers", [self._watchers], description="Gateways that follow the table."
        )

    def _heard(self) -> None:
        if self._away_since is not None:
            log.info("following the controller")
        self._failures, self._away_since = 0, None

    def _lost(self, why: str) -> None:
        self._failures += 1
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
            log.warning("the controller is away, the last routing table stays in force: %s", why)

    def _staleness(self, _: CallbackOptions) -> Iterable[Observation]:
        since = self._away_since
        yield Observation(0.0 if since is None else self._clock.monotonic() - since)

    def _models(self, _: CallbackOptions) -> Iterable[Observation]:
        table = self._routing.table
        yield Observation(len(table.routes) if table is not None else 0)

    def _targets(self, _: CallbackOptions) -> Iterable[Observation]:
        table = self._routing.table
        yield Observation(sum(len(route.targets) for route in table.routes) if table is not None else 0)

    def _watchers(self, _: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self._routing.watchers)


def _replicas(channel: grpc.aio.Channel) -> AsyncIterable[pb.WatchReplicasResponse]:
    return ReplicaServiceStub(channel).WatchReplicas(pb.WatchReplicasRequest(changes=True))
