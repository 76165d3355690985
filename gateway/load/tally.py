"""Adds up, for the replica sets whose size follows the load, what Envoys and the waiting room say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from aiops.routing.v1 import load_service_pb2 as pb
from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import load_report_pb2

from gateway.models.table import ModelRoute
from gateway.policies.table import PolicyRoute
from mesh.clock import Clock
from mesh.loops import Wake

# An Envoy says every second what it works on. One that says nothing for so long may work on anything.
FRESH = timedelta(seconds=4)


@dataclass(slots=True)
class _Envoy:
    """What one Envoy said last: open requests by set."""

    heard_at: float
    in_flight: Mapping[str, int] = field(default_factory=dict)


class Tally:
    """Open requests of every set. `wake` is set when something is to be told at once, `clusters` when they change."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._endpoints: dict[str, dict[str, str]] = {}
        self._active_at: dict[str, float] = {}
        self._envoys: dict[object, _Envoy] = {}
        self._held: dict[str, int] = {}
        self.wake = Wake()

    def follow(self, models: Iterable[ModelRoute], policies: Iterable[PolicyRoute]) -> None:
        """Takes a table: which endpoints of which clusters belong to which sets."""
        serving = [target.serving for policy in policies for target in policy.targets if target.serving]
        routes = [each for model in (*models, *serving) for each in (model, model.over_grpc) if each is not None]
        found = {route.cluster: {each.endpoint: each.replica_set_id for each in route.targets} for route in routes}
        self._endpoints = {name: sets for name, sets in found.items() if any(sets.values())}
        known = {each for sets in self._endpoints.values() for each in sets.values() if each}
        known |= {route.sleep.replica_set_id for route in routes if route.sleep is not None}
        now = self._clock.monotonic()
        self._active_at = {each: self._active_at.get(each, now) for each in known}

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters that Envoys are to tell of."""
        return tuple(sorted(self._endpoints))

    def connected(self, envoy: object) -> None:
        """An Envoy that has said nothing yet: until it does, nothing is known."""
        self._envoys[envoy] = _Envoy(float("-inf"))

    def gone(self, envoy: object) -> None:
        """An Envoy and all that it worked on."""
        self._envoys.pop(envoy, None)

    def heard(self, envoy: object, reports: Sequence[load_report_pb2.ClusterStats]) -> None:
        """What an Envoy has worked on since it said so last."""
        now, in_flight = self._clock.monotonic(), dict[str, int]()
        for report in reports:
            sets = self._endpoints.get(report.cluster_name, {})
            for stats in (stats for place in report.upstream_locality_stats for stats in place.upstream_endpoint_stats):
                set_id = sets.get(_endpoint(stats.address)) or _only(sets, stats.address)
                if set_id:
                    in_flight[set_id] = in_flight.get(set_id, 0) + stats.total_requests_in_progress
                    self._active_at[set_id] = now
        self._envoys[envoy] = _Envoy(now, in_flight)

    def held(self, set_id: str, more: int) -> None:
        """One more request waits for a set, or one fewer."""
        before = self._held.get(set_id, 0)
        self._held[set_id] = before + more
        self._active_at[set_id] = self._clock.monotonic()
        if before == 0:
            self.wake.set()

    def loads(self) -> list[pb.SetLoad]:
        """What the controller is told. Nothing of what is not known: sets that nobody waits for, without an Envoy."""
        now = self._clock.monotonic()
        latest = [each.heard_at for each in self._envoys.values()]
        known = bool(latest) and now - min(latest) <= FRESH.total_seconds()
        return [
            pb.SetLoad(
                replica_set_id=set_id,
                in_flight=sum(each.in_flight.get(set_id, 0) for each in self._envoys.values()),
                held=self._held.get(set_id, 0),
                idle_seconds=now - active_at,
            )
            for set_id, active_at in sorted(self._active_at.items())
            if known or self._held.get(set_id)
        ]


def _endpoint(address: address_pb2.Address) -> str:
    if address.HasField("envoy_internal_address"):
        return str(address.envoy_internal_address.endpoint_id)
    return f"{address.socket_address.address}:{address.socket_address.port_value}"


def _only(sets: Mapping[str, str], address: address_pb2.Address) -> str:
    """The set at that port, where Envoy had to look up the name of its node."""
    port = f":{address.socket_address.port_value}"
    found = {set_id for endpoint, set_id in sets.items() if endpoint.endswith(port)}
    return found.pop() if len(found) == 1 else ""
