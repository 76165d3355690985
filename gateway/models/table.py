"""The routing table as the gateway keeps it: one entry per model name of an organisation."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from aiops.routing.v1 import routing_service_pb2 as pb

from gateway.tunnels.relay import at_port, replica_name

log = logging.getLogger(__name__)
# What fits a header and a path as it is.
NAME = re.compile(r"[!-~]{1,512}")
PATH = re.compile(r"/[!-~]{0,1024}")


@dataclass(frozen=True, slots=True)
class Target:
    """One live instance of a model."""

    instance_id: str
    address: str
    port: int
    inference_path: str
    weight: int
    private_paths: tuple[str, ...] = ()
    # The replica's name in its node's tunnel, where that is how it is reached; `address` means nothing then.
    tunnel: str = ""
    grpc_port: int = 0
    deployment_id: str = ""
    # The replica set, where the number of its replicas follows the load.
    replica_set_id: str = ""
    # Its share where a route balances by load; 0 is not known.
    load_weight: int = field(default=0, compare=False)
    # Each request goes on a connection of its own.
    single_use: bool = False

    @property
    def endpoint(self) -> str:
        """What Envoy calls its endpoint by."""
        return self.tunnel or f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Sleep:
    """A model may be without a target: its requests then wait in the `room`, host and port, and wake its set.

    What is for people alone makes no difference to Envoy.
    """

    replica_set_id: str
    room: tuple[str, int]
    hold_seconds: int = field(default=120, compare=False)
    standing: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Balancing:
    """Which of a model's instances answers: by `session` or `prefix`, but none with too many open requests."""

    affinity: str
    prefix_bytes: int
    overload_percent: int


@dataclass(frozen=True, slots=True)
class RefusedField:
    """A request field that the engine would ignore, and the JSON values with which it changes nothing."""

    path: str
    harmless: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A name that clients may send as `model`, as lists of models have it."""

    model: str
    org_id: str
    created: int


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """Where requests for one model name of one organisation go."""

    org_id: str
    model: str
    targets: tuple[Target, ...]
    refused: tuple[RefusedField, ...]
    created: int
    grpc: bool = False
    # The cluster, where it is not the model's own.
    named: str = ""
    sleep: Sleep | None = None
    # The instance with the fewest open requests answers without it.
    balancing: Balancing | None = None

    @property
    def asleep(self) -> bool:
        """Whether its requests wait for a target."""
        return self.sleep is not None and not self.targets

    @property
    def tells_usage(self) -> bool:
        """Whether its streams tell what they used when they are asked to in OpenAI's words."""
        return knows_stream_options(self.refused) and all(
            target.inference_path.endswith("/completions") for target in self.targets
        )

    @property
    def key(self) -> str:
        """What Envoy looks the model up by."""
        return f"{self.org_id}/{self.model}"

    @property
    def cluster(self) -> str:
        """The name of the model's cluster."""
        return self.named or f"{'grpc' if self.grpc else 'model'}/{self.key}"

    @property
    def listed(self) -> Listed:
        """The model in a list."""
        return Listed(self.model, self.org_id, self.created)

    @property
    def over_grpc(self) -> "ModelRoute | None":
        """The same model at its engines' gRPC ports, None when it has none."""
        targets = tuple(_at_grpc_port(target) for target in self.targets if target.grpc_port)
        return replace(self, targets=targets, grpc=True, sleep=None) if targets else None


def knows_stream_options(refused: Iterable[RefusedField]) -> bool:
    """Whether requests may ask for the counts of a stream, with these fields refused."""
    asking = {"stream_options": '{"include_usage":true}', "stream_options.include_usage": "true"}
    return all(asking.get(field.path) in (None, *field.harmless) for field in refused)


def from_proto(table: pb.RoutingTable, room: tuple[str, int] | None = None) -> tuple[ModelRoute, ...]:
    """The routes of a table that have somewhere to go, in a stable order. Who asks a sleeping model waits in a room.

    What Envoy would refuse is left out and logged: one bad target must not keep the others from changing.
    """
    routes = (_route(message, room) for message in table.routes if _is_name(message.org_id) and _is_name(message.model))
    return tuple(sorted((route for route in routes if route.targets or route.sleep), key=lambda route: route.key))


def _route(message: pb.ModelRoute, room: tuple[str, int] | None) -> ModelRoute:
    return ModelRoute(
        org_id=message.org_id,
        model=message.model,
        targets=targets_from(message.targets),
        refused=refused_from(message.refused_fields),
        created=int(message.created),
        sleep=sleep_from(message.sleep, room),
    )


def sleep_from(message: pb.Sleep, room: tuple[str, int] | None) -> Sleep | None:
    """How a model sleeps; None where it does not, or where there is no room to wait in."""
    if room is None or not message.replica_set_id:
        return None
    return Sleep(message.replica_set_id, room, message.hold_seconds, message.standing)


def targets_from(messages: Iterable[pb.Target]) -> tuple[Target, ...]:
    """The instances that a request can be sent to, in a stable order."""
    targets = (_target(target) for target in messages if _is_reachable(target))
    return tuple(sorted(targets, key=lambda target: target.instance_id))


def _is_reachable(message: pb.Target) -> bool:
    named = (message.instance_id, *((message.node_id, message.deployment_id) if message.tunnel else (message.address,)))
    sound = all(_is_name(each) for each in named) and 0 < message.port < 65536
    if not (sound and PATH.fullmatch(message.inference_path)):
        log.error("instance %r is left out: no request can be sent to it", message.instance_id)
        return False
    return True


def _is_name(text: str) -> bool:
    if NAME.fullmatch(text):
        return True
    log.error("%r is left out: it is no name", text)
    return False


def _target(message: pb.Target) -> Target:
    return Target(
        instance_id=message.instance_id,
        address=message.address,
        port=message.port,
        inference_path=message.inference_path,
        weight=max(message.weight, 1),
        tunnel=replica_name(message.node_id, message.deployment_id, message.port) if message.tunnel else "",
        private_paths=tuple(path for path in message.private_paths if PATH.fullmatch(path)),
        grpc_port=message.grpc_port if message.grpc_port < 65536 else 0,
        deployment_id=message.deployment_id,
        replica_set_id=message.replica_set_id,
        load_weight=message.load_weight,
        single_use=message.single_use_connections,
    )


def _at_grpc_port(target: Target) -> Target:
    tunnel = at_port(target.tunnel, target.grpc_port) if target.tunnel else ""
    return replace(target, port=target.grpc_port, tunnel=tunnel)


def refused_from(messages: Iterable[pb.RefusedField]) -> tuple[RefusedField, ...]:
    """What is refused, in a stable order."""
    fields = (RefusedField(message.path, tuple(message.harmless_values)) for message in messages)
    return tuple(sorted(fields, key=lambda field: field.path))
