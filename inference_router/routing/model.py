"""Routes of models by their names, and how they follow from the instances that may receive traffic."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

EQUAL_WEIGHT = 1
HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True, order=True)
class RefusedField:
    """A request field that an engine would silently ignore, and the JSON values of it that change nothing."""

    path: str
    harmless_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replica:
    """One instance that may receive traffic, as the controller tells it."""

    deployment_id: str
    instance_id: str
    org_id: str
    model_name: str
    node_id: str
    address: str
    port: int
    epoch: int
    inference_path: str
    unsupported_fields: tuple[RefusedField, ...]
    created: float
    private_paths: tuple[str, ...] = ()
    tunnel: bool = False
    grpc_port: int = 0
    replica_set_id: str = ""
    load_weight: int = 0
    member_of: str = ""
    single_use_connections: bool = False

    def flaw(self) -> str:
        """Why nothing can be routed to it; empty when it can."""
        if not (self.address or (self.tunnel and self.node_id)) or not 0 < self.port <= HIGHEST_PORT:
            return f"its address is {self.address!r} port {self.port}"
        missing = [name for name in ("deployment_id", "instance_id", "org_id", "model_name") if not getattr(self, name)]
        return f"it has no {', '.join(missing)}" if missing else ""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where a share of a model's requests goes."""

    deployment_id: str
    instance_id: str
    node_id: str
    address: str
    port: int
    inference_path: str
    weight: int
    private_paths: tuple[str, ...] = ()
    # Reached through the tunnel of `node_id` instead of by address.
    tunnel: bool = False
    grpc_port: int = 0
    # The replica set, where the number of its replicas follows the load.
    replica_set_id: str = ""
    # Its share where a route balances by load; 0 is not known.
    load_weight: int = 0
    # The replica set; empty when it stands alone.
    member_of: str = ""
    # Each request goes on a connection of its own.
    single_use_connections: bool = False


@dataclass(frozen=True, slots=True)
class Sleep:
    """A model may be without a target while nobody asks for it; who asks waits so long. `standing` is for people."""

    replica_set_id: str
    hold_seconds: int
    standing: str = ""


@dataclass(frozen=True, slots=True)
class SleepyModel:
    """A model that may sleep, as the controller tells it."""

    org_id: str
    model_name: str
    created: float
    sleep: Sleep


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """One model name of one organisation."""

    org_id: str
    model: str
    targets: tuple[Target, ...]
    refused_fields: tuple[RefusedField, ...]
    created: float
    sleep: Sleep | None = None


def compile_routes(replicas: Iterable[Replica]) -> tuple[ModelRoute, ...]:
    """The routes of these instances, the same for the same instances in any order.

    Instances of one model name of one organisation share its requests equally. Of one deployment only the newest epoch
    counts. What nothing can be routed to is left out; `Replica.flaw` says why.
    """
    return tuple(route_of(members) for members in by_name(replicas).values())


def by_name(replicas: Iterable[Replica]) -> dict[tuple[str, str], tuple[Replica, ...]]:
    """The instances that count, by organisation and model name, in a stable order."""
    # A deployment has several routes where its engine has adapters: one for each name.
    newest: dict[tuple[str, str], Replica] = {}
    for replica in replicas:
        key = (replica.deployment_id, replica.model_name)
        known = newest.get(key)
        if not replica.flaw() and (known is None or replica.epoch > known.epoch):
            newest[key] = replica
    ordered = sorted(newest.values(), key=lambda each: (*_route_of(each), each.deployment_id))
    return {name: tuple(members) for name, members in groupby(ordered, _route_of)}


def let_sleep(
    awake: Mapping[tuple[str, str], ModelRoute],
    sleepy: Iterable[SleepyModel],
    before: Mapping[tuple[str, str], ModelRoute],
) -> dict[tuple[str, str], ModelRoute]:
    """The routes, and those of models that sleep now. What a model refused while it was awake it refuses asleep."""
    found = dict(awake)
    # The oldest set of a name wakes.
    for model in sorted(sleepy, key=lambda each: (each.created, each.sleep.replica_set_id), reverse=True):
        key = (model.org_id, model.model_name)
        asleep = replace(before[key], targets=()) if key in before else ModelRoute(*key, (), (), model.created)
        found[key] = replace(found.get(key, asleep), sleep=model.sleep)
    return {key: found[key] for key in sorted(found)}


def _route_of(replica: Replica) -> tuple[str, str]:
    return replica.org_id, replica.model_name


def route_of(replicas: Sequence[Replica]) -> ModelRoute:
    """The route of instances of one name."""
    return ModelRoute(
        org_id=replicas[0].org_id,
        model=replicas[0].model_name,
        targets=tuple(sorted(_target(each) for each in replicas)),
        refused_fields=shared_refusals([each.unsupported_fields for each in replicas]),
        created=min(each.created for each in replicas),
    )


def _target(replica: Replica) -> Target:
    return Target(
        deployment_id=replica.deployment_id,
        instance_id=replica.instance_id,
        node_id=replica.node_id,
        address=replica.address,
        port=replica.port,
        inference_path=replica.inference_path,
        weight=EQUAL_WEIGHT,
        private_paths=replica.private_paths,
        tunnel=replica.tunnel,
        grpc_port=replica.grpc_port,
        replica_set_id=replica.replica_set_id,
        load_weight=replica.load_weight,
        member_of=replica.member_of,
        single_use_connections=replica.single_use_connections,
    )


def shared_refusals(ignored: Iterable[Sequence[RefusedField]]) -> tuple[RefusedField, ...]:
    """What any would ignore is refused; a value passes when it changes nothing on every one that would."""
    harmless: dict[str, frozenset[str]] = {}
    for field in (field for fields in ignored for field in fields):
        values = frozenset(field.harmless_values)
        harmless[field.path] = harmless.get(field.path, values) & values
    return tuple(RefusedField(path, tuple(sorted(values))) for path, values in sorted(harmless.items()))
