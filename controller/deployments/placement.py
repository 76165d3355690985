"""Where a deployment goes: one pure function for the dry run and for the scheduler."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from controller.deployments.need import CPU, Need, need_of
from controller.models.model import Architecture, ModelId
from controller.nodes.model import GpuDevice, Node, NodeId, NodeRole, NodeStatus

# Engines that serve models of a framework; a node needs one of them.
ENGINES = {"vllm": ("vllm", "transformers"), "triton": ("triton",), "custom": ("custom",)}
# vLLM on a processor is chosen only where there is so much RAM; its node agent follows the same rule.
_VLLM_CPU_FREE_MB = 6_000
# What a node keeps for itself.
RESERVED_RAM_MB = 256
_GROUPS = (1, 2, 4, 8)
_ALL_TASKS = frozenset({"asr", "tts", "cv", "llm", "nlp"})
_TASKS = {"vllm": frozenset({"llm"})}


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be placed. `node_id`, `gpu_devices` and `port` override the choice; what is empty is left open."""

    model_id: ModelId
    model_name: str
    framework: str
    task: str
    weights_bytes: int
    architecture: Architecture | None
    node_id: NodeId | None = None
    gpu_devices: tuple[str, ...] = ()
    port: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What an active deployment holds on a node.

    `memory_mb` is per device, or of RAM without devices. `settled_mb` is how much of it the node's reading of free
    memory already shows.
    """

    deployment_id: str
    model_id: ModelId
    memory_mb: int
    gpu_devices: tuple[str, ...] = ()
    port: int = 0
    settled_mb: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node and what is claimed on it."""

    node: Node
    claims: tuple[Claim, ...] = ()


class Cause(Enum):
    """Why a node is not chosen."""

    NOT_ELIGIBLE = "not_eligible"
    ENGINE = "engine"
    DEVICE = "device"
    PORT = "port"
    MEMORY = "memory"
    OTHER_PREFERRED = "other_preferred"


@dataclass(frozen=True, slots=True)
class NodeRefusal:
    """Why a node is not chosen, in words too."""

    node_id: NodeId
    node_name: str
    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the deployment goes. `memory_mb` over all devices; `refusals` are those of the other nodes."""

    node_id: NodeId
    node_name: str
    gpu_devices: tuple[str, ...]
    memory_mb: int
    port: int
    engine: str
    explanation: str
    refusals: tuple[NodeRefusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """No node can take it."""

    refusals: tuple[NodeRefusal, ...]


@dataclass(frozen=True, slots=True)
class _Offer:
    node: Node
    need: Need
    gpu_devices: tuple[str, ...]
    engine: str
    available_mb: int
    replicas: int

    @property
    def rank(self) -> tuple[int, int, str]:
        return (self.replicas, -self.available_mb, self.node.node_id)


class _UnfitError(Exception):
    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason


def plan(demand: Demand, fleet: Sequence[Candidate]) -> Placement | Refusal:
    """Chooses a node: one with fewer replicas of the model first, then the one with most free memory, then by id.

    A chosen node is there, has an engine, the devices and the port, and enough memory both by its own reading (which
    shows foreign processes) and by what is claimed on it. Never places a model whose need is not known.
    """
    offers, refusals = [], []
    for candidate in fleet:
        if demand.node_id and candidate.node.node_id != demand.node_id:
            continue
        try:
            offers.append(_offer(demand, candidate))
        except _UnfitError as unfit:
            refusals.append(_refusal(candidate.node, unfit.cause, unfit.reason))
    if not offers:
        return Refusal(tuple(refusals))
    best = min(offers, key=lambda offer: offer.rank)
    refusals += [_passed_over(offer, best) for offer in offers if offer is not best]
    return Placement(
        node_id=best.node.node_id,
        node_name=best.node.name,
        gpu_devices=best.gpu_devices,
        memory_mb=best.need.total_mb(len(best.gpu_devices)),
        port=demand.port,
        engine=best.engine,
        explanation=_explain(best),
        refusals=tuple(refusals),
    )


def _offer(demand: Demand, candidate: Candidate) -> _Offer:
    node = candidate.node
    _check_eligible(node)
    engine = _engine(demand, node)
    _check_port(demand, candidate)
    need = need_of(demand.weights_bytes, demand.architecture, engine, gpu=bool(node.gauges.gpu_devices))
    if need is None:
        raise _UnfitError(
            Cause.MEMORY,
            f"the size of its KV cache is unknown: config.json of {demand.model_name} lacks layers, heads or context",
        )
    devices, available = _devices(demand, candidate, need) if node.gauges.gpu_devices else _ram(demand, candidate, need)
    replicas = sum(claim.model_id == demand.model_id for claim in candidate.claims)
    return _Offer(node, need, devices, engine, available, replicas)


def _check_eligible(node: Node) -> None:
    if node.status is NodeStatus.OFFLINE or node.deleted_at is not None:
        raise _UnfitError(Cause.NOT_ELIGIBLE, "it is offline")
    if node.status is NodeStatus.MAINTENANCE:
        raise _UnfitError(Cause.NOT_ELIGIBLE, "it is in maintenance")
    if NodeRole.WORKER not in node.role:
        raise _UnfitError(Cause.NOT_ELIGIBLE, "it is no worker")


def _engine(demand: Demand, node: Node) -> str:
    fitting = ENGINES.get(demand.framework, ())
    there = [engine for engine in fitting if engine in node.engines]
    if not there:
        have = ", ".join(node.engines) or "none"
        raise _UnfitError(
            Cause.ENGINE, f"it has no engine for {demand.framework} ({' or '.join(fitting)}); it has {have}"
        )
    if demand.task not in _TASKS.get(demand.framework, _ALL_TASKS):
        raise _UnfitError(Cause.ENGINE, f"{' and '.join(there)} serve no models for {demand.task}")
    roomy = bool(node.gauges.gpu_devices) or node.gauges.ram_free >= _VLLM_CPU_FREE_MB
    return there[0] if roomy else there[-1]


def _check_port(demand: Demand, candidate: Candidate) -> None:
    for claim in candidate.claims:
        if demand.port and claim.port == demand.port:
            raise _UnfitError(Cause.PORT, f"port {demand.port} belongs to {claim.deployment_id}")


def _ram(demand: Demand, candidate: Candidate, need: Need) -> tuple[tuple[str, ...], int]:
    if demand.gpu_devices:
        raise _UnfitError(Cause.DEVICE, f"it has no GPU {', '.join(demand.gpu_devices)}: it has no GPU at all")
    gauges = candidate.node.gauges
    claims = [claim for claim in candidate.claims if not claim.gpu_devices]
    available = _available(gauges.ram_free - RESERVED_RAM_MB, gauges.ram_total - RESERVED_RAM_MB, claims)
    if available < need.per_device_mb(CPU):
        raise _UnfitError(Cause.MEMORY, _short(need, CPU, available, claims, "of RAM"))
    return (), available


def _devices(demand: Demand, candidate: Candidate, need: Need) -> tuple[tuple[str, ...], int]:
    available = {device.device_id: _device_available(device, candidate) for device in candidate.node.gauges.gpu_devices}
    _check_devices(demand, candidate.node)
    for chosen in _choices(demand, candidate.node, available):
        least = min(available[device] for device in chosen)
        if least >= need.per_device_mb(len(chosen)):
            return chosen, sum(available[device] for device in chosen)
    group = demand.gpu_devices or (max(available, key=lambda device: (available[device], device)),)
    tightest = min(group, key=lambda device: (available[device], device))
    claims = [claim for claim in candidate.claims if tightest in claim.gpu_devices]
    raise _UnfitError(Cause.MEMORY, _short(need, len(group), available[tightest], claims, f"on GPU {tightest}"))


def _check_devices(demand: Demand, node: Node) -> None:
    devices = {device.device_id: device for device in node.gauges.gpu_devices}
    missing = [device for device in demand.gpu_devices if device not in devices]
    if missing:
        raise _UnfitError(Cause.DEVICE, f"it has no GPU {', '.join(missing)}; it has {', '.join(devices)}")
    broken = {name: devices[name].error for name in demand.gpu_devices or devices if devices[name].error}
    if broken and (demand.gpu_devices or len(broken) == len(devices)):
        raise _UnfitError(
            Cause.DEVICE, "; ".join(f"GPU {name} cannot be read: {error}" for name, error in broken.items())
        )


def _choices(demand: Demand, node: Node, available: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Groups of devices worth trying: those asked for, or the freest, in numbers that divide the key-value heads."""
    if demand.gpu_devices:
        yield demand.gpu_devices
        return
    sound = [device.device_id for device in node.gauges.gpu_devices if not device.error]
    freest = sorted(sound, key=lambda device: (-available[device], device))
    heads = demand.architecture.kv_heads if demand.architecture else 1
    for size in _GROUPS:
        if size <= len(freest) and heads % size == 0:
            yield tuple(sorted(freest[:size]))


def _device_available(device: GpuDevice, candidate: Candidate) -> int:
    claims = [claim for claim in candidate.claims if device.device_id in claim.gpu_devices]
    return 0 if device.error else _available(device.memory_free, device.memory_total, claims)


def _available(free_mb: int, total_mb: int, claims: Sequence[Claim]) -> int:
    """What nobody uses and nobody will: by the node's reading, and by the claims alone."""
    unsettled = sum(max(0, claim.memory_mb - claim.settled_mb) for claim in claims)
    return max(0, min(free_mb - unsettled, total_mb - sum(claim.memory_mb for claim in claims)))


def _short(need: Need, devices: int, available_mb: int, claims: Sequence[Claim], where: str) -> str:
    wanted = need.per_device_mb(devices)
    return f"it needs {wanted:,} MB ({need}), {available_mb:,} MB are free {where}; " + _what_would_fit(
        need, devices, available_mb, claims, wanted
    )


def _what_would_fit(need: Need, devices: int, available_mb: int, claims: Sequence[Claim], wanted_mb: int) -> str:
    context = need.context_within(available_mb, devices)
    if context:
        return f"a context of {context:,} tokens would fit"
    by_size: Callable[[Claim], tuple[int, str]] = lambda claim: (claim.memory_mb, claim.deployment_id)  # noqa: E731
    for claim in sorted(claims, key=by_size):
        if available_mb + claim.memory_mb >= wanted_mb:
            return f"stopping {claim.deployment_id} ({claim.memory_mb:,} MB) would make room"
    weights = need.weights_within(available_mb, devices)
    return (
        f"weights of at most {weights:,} MB would fit, so a smaller or a quantised model" if weights else "nothing fits"
    )


def _passed_over(offer: _Offer, best: _Offer) -> NodeRefusal:
    if offer.replicas != best.replicas:
        why = f"{best.node.name} has fewer replicas of the model ({best.replicas} to {offer.replicas})"
    elif offer.available_mb != best.available_mb:
        why = f"{best.node.name} has more free memory ({best.available_mb:,} MB to {offer.available_mb:,} MB)"
    else:
        why = f"{best.node.name} is as good"
    return _refusal(offer.node, Cause.OTHER_PREFERRED, f"it fits, but {why}")


def _refusal(node: Node, cause: Cause, reason: str) -> NodeRefusal:
    return NodeRefusal(node.node_id, node.name, cause, reason)


def _explain(offer: _Offer) -> str:
    where = f"GPU {', '.join(offer.gpu_devices)}" if offer.gpu_devices else "RAM"
    return (
        f"{offer.node.name} has {offer.available_mb:,} MB of {where} free and {offer.replicas} replicas of the model; "
        f"{offer.need.total_mb(len(offer.gpu_devices)):,} MB are needed ({offer.need}), served by {offer.engine}"
    )
