"""Whether one node can take a deployment, with which engine and on which of its cards."""

from dataclasses import dataclass

from controller.nodes.devices import GpuDevice
from controller.nodes.model import NodeId, NodeStatus
from controller.placement.fleet import Fleet
from controller.placement.model import ANY_VALUE, Cause, Demand, Labels, UnfitError
from controller.placement.need import CPU, Need, divides, need_of, parallel_sizes
from controller.placement.seat import Kind, Seat
from controller.placement.words import indivisible, no_engine, short_of_memory, unknown_need, unreadable

# Engines that serve models of a framework; a node needs one of them.
ENGINES = {"vllm": ("vllm", "transformers"), "triton": ("triton",), "custom": ("custom",), "llamacpp": ("llamacpp",)}
_ALL_TASKS = frozenset({"asr", "tts", "cv", "llm", "nlp"})
_TASKS = {"vllm": frozenset({"llm"}), "llamacpp": frozenset({"llm"})}
# What a node fetches from object storage and what it reads from its disk, in megabytes a second.
_FETCH_MB_S = 100
_LOAD_MB_S = 500

Rank = tuple[int, int, int, int, tuple[int, int, NodeId]]


@dataclass(frozen=True, slots=True)
class Offer:
    """What one node offers. `available_mb` is what is free of the chosen devices together, or of RAM.

    `opened` counts the cards among them that nothing of ours is on yet.
    """

    seat: Seat
    need: Need
    gpu_devices: tuple[str, ...]
    engine: str
    available_mb: int
    replicas: int
    ready_s: int
    opened: int
    has_files: bool

    @property
    def rank(self) -> Rank:
        """Less is better."""
        return (self.replicas, self.ready_s, len(self.gpu_devices), self.opened, self.seat.preference)


def offer_of(demand: Demand, seat: Seat, fleet: Fleet) -> Offer:
    """What the node offers. UnfitError with what it lacks."""
    engine = engine_of(demand, seat.kind)
    if seat.node_id in demand.avoid:
        raise UnfitError(Cause.NOT_ELIGIBLE, "it failed there before")
    _check_labels(demand, seat)
    _check_port(demand, seat)
    need = need_of(demand, engine, gpu=seat.kind.gpu)
    if need is None:
        raise UnfitError(Cause.MEMORY, unknown_need(demand))
    chosen = _cards(demand, seat, need) if seat.kind.gpu else _ram(demand, seat, need)
    has_files = fleet.has_files(seat.node_id, demand.model_id, demand.digest)
    opened = [each for each in chosen if each not in seat.held and not _device(seat, each).mig_profile]
    return Offer(
        seat,
        need,
        chosen,
        engine,
        sum(seat.devices[each] for each in chosen) if chosen else seat.ram,
        seat.replicas(demand.model_id),
        ready_s(demand, has_files=has_files),
        len(opened),
        has_files,
    )


def engine_of(demand: Demand, kind: Kind) -> str:
    """The engine that would serve on nodes of a kind. UnfitError when they are away or have none."""
    if kind.status is NodeStatus.OFFLINE or kind.removed:
        raise UnfitError(Cause.NOT_ELIGIBLE, "it is offline")
    if kind.status is NodeStatus.MAINTENANCE:
        raise UnfitError(Cause.NOT_ELIGIBLE, "it is in maintenance")
    if kind.disk_full:
        raise UnfitError(Cause.NOT_ELIGIBLE, "its disk is full")
    if not kind.worker:
        raise UnfitError(Cause.NOT_ELIGIBLE, "it is no worker")
    fitting = ENGINES.get(demand.framework, ())
    if demand.image and not kind.containers:
        raise UnfitError(Cause.ENGINE, f"it has no Docker Engine to run image {demand.image}")
    there = [engine for engine in fitting if engine in kind.engines or demand.image]
    if not there:
        raise UnfitError(Cause.ENGINE, no_engine(demand, fitting, kind.engines))
    if demand.task not in _TASKS.get(demand.framework, _ALL_TASKS):
        raise UnfitError(Cause.ENGINE, f"{' and '.join(there)} serve no models for {demand.task}")
    return there[0] if kind.roomy or demand.image else there[-1]


def missing_labels(demand: Demand, seat: Seat) -> str:
    """What is wrong with the node's labels, in words; empty when nothing is."""
    options, labels = demand.options, seat.node.labels
    if options.required_labels and not _all_on(options.required_labels, seat):
        lacking = [(name, value) for name, value in options.required_labels if not _is_on(name, value, seat)]
        have = ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "none"
        return f"it lacks the label {' and '.join(_label(*each) for each in lacking)}; it has {have}"
    unwanted = [(name, value) for name, value in options.forbidden_labels if _is_on(name, value, seat)]
    if unwanted:
        return f"it has the label {' and '.join(f'{name}={labels[name]}' for name, _ in unwanted)}"
    return ""


def ready_s(demand: Demand, *, has_files: bool) -> int:
    """An estimate of the seconds until the model serves: fetching its weights unless they are there, and loading."""
    weights_mb = demand.weights_bytes >> 20
    return weights_mb // _LOAD_MB_S + (0 if has_files else weights_mb // _FETCH_MB_S)


def _all_on(wanted: Labels, seat: Seat) -> bool:
    return all(_is_on(name, value, seat) for name, value in wanted)


def _is_on(name: str, value: str, seat: Seat) -> bool:
    return name in seat.node.labels if value == ANY_VALUE else (name, value) in seat.labels


def _label(name: str, value: str) -> str:
    return name if value == ANY_VALUE else f"{name}={value}"


def _check_labels(demand: Demand, seat: Seat) -> None:
    missing = missing_labels(demand, seat)
    if missing:
        raise UnfitError(Cause.LABELS, missing)


def _check_port(demand: Demand, seat: Seat) -> None:
    if demand.port and demand.port in seat.ports:
        holder = next(claim.deployment_id for claim in seat.claims if claim.port == demand.port)
        raise UnfitError(Cause.PORT, f"port {demand.port} belongs to {holder}")


def _ram(demand: Demand, seat: Seat, need: Need) -> tuple[str, ...]:
    if demand.gpu_devices:
        raise UnfitError(Cause.DEVICE, f"it has no GPU {', '.join(demand.gpu_devices)}: it has no GPU at all")
    if demand.options.gpu_count:
        raise UnfitError(Cause.DEVICE, f"it has no GPU, and {demand.options.gpu_count} are asked for")
    if seat.ram < need.per_device_mb(CPU):
        claims = [claim for claim in seat.claims if not claim.gpu_devices]
        raise UnfitError(Cause.MEMORY, short_of_memory(demand, need, CPU, seat.ram, claims, "of RAM"))
    return ()


def _cards(demand: Demand, seat: Seat, need: Need) -> tuple[str, ...]:
    _check_devices(demand, seat)
    sizes = parallel_sizes(demand)
    if not sizes:
        raise UnfitError(Cause.DEVICE, indivisible(demand, len(demand.gpu_devices) or demand.options.gpu_count))
    for size in sizes:
        chosen = _chosen(demand, seat, size, need.per_device_mb(size))
        if chosen:
            return chosen
    if not demand.gpu_devices and sizes[0] > max(1, seat.count):
        raise UnfitError(Cause.DEVICE, f"it has {seat.count} cards that can share a model, and {sizes[0]} are needed")
    asked = demand.gpu_devices or _freest(seat)[: sizes[0]]
    tightest = min(asked, key=lambda device: (seat.devices[device], device))
    claims = [claim for claim in seat.claims if tightest in claim.gpu_devices]
    where = f"on GPU {tightest}"
    raise UnfitError(Cause.MEMORY, short_of_memory(demand, need, sizes[0], seat.devices[tightest], claims, where))


def _chosen(demand: Demand, seat: Seat, size: int, mb: int) -> tuple[str, ...]:
    """So many cards with room: those asked for; else the tightest that hold something already, then the freest."""
    if demand.gpu_devices:
        return demand.gpu_devices if all(seat.devices[each] >= mb for each in demand.gpu_devices) else ()
    held = seat.held
    slices = set() if size == 1 else {each.device_id for each in seat.node.gauges.gpu_devices if each.mig_profile}
    fitting = [each for each, free in seat.devices.items() if free >= mb and each not in slices]
    sharing = sorted((each for each in fitting if each in held), key=lambda each: (seat.devices[each], each))
    # A slice is taken before a whole card, and the smallest that does.
    untouched = sorted((each for each in fitting if each not in held), key=lambda each: _cost(seat, each))
    taken = (sharing + untouched)[:size]
    return tuple(sorted(taken)) if len(taken) == size else ()


def _cost(seat: Seat, device_id: str) -> tuple[bool, int, str]:
    is_slice = _device(seat, device_id).mig_profile != ""
    free = seat.devices[device_id]
    return (not is_slice, free if is_slice else -free, device_id)


def _freest(seat: Seat) -> tuple[str, ...]:
    return tuple(sorted(seat.devices, key=lambda device: (-seat.devices[device], device)))


def _check_devices(demand: Demand, seat: Seat) -> None:
    devices = {device.device_id: device for device in seat.node.gauges.gpu_devices}
    missing = [device for device in demand.gpu_devices if device not in devices]
    if missing:
        raise UnfitError(Cause.DEVICE, f"it has no GPU {', '.join(missing)}; it has {', '.join(devices)}")
    useless = [devices[name] for name in demand.gpu_devices or devices if not devices[name].usable]
    if useless and (demand.gpu_devices or not seat.devices):
        raise UnfitError(Cause.DEVICE, unreadable(useless))
    if len(demand.gpu_devices) > 1 and any(devices[each].mig_profile for each in demand.gpu_devices):
        raise UnfitError(Cause.DEVICE, "a model cannot be split over MIG slices")
    if demand.gpu_devices and not divides(demand.architecture, len(demand.gpu_devices)):
        raise UnfitError(Cause.DEVICE, indivisible(demand, len(demand.gpu_devices)))


def _device(seat: Seat, device_id: str) -> GpuDevice:
    return next(each for each in seat.node.gauges.gpu_devices if each.device_id == device_id)
