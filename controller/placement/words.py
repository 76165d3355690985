"""What a plan says of itself: why a node was chosen or passed over, what it lacks, and what would fit there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controller.nodes.devices import GpuDevice
from controller.placement.model import Claim, Demand, Eviction
from controller.placement.need import Need

if TYPE_CHECKING:
    from controller.placement.fit import Offer


def unknown_need(demand: Demand) -> str:
    """Nothing can be promised to a model whose need is not known."""
    return f"the size of its KV cache is unknown: the files of {demand.model_name} lack layers, heads or context"


def no_engine(demand: Demand, fitting: Sequence[str], there: Sequence[str]) -> str:
    """The node cannot serve the framework."""
    return f"it has no engine for {demand.framework} ({' or '.join(fitting)}); it has {', '.join(there) or 'none'}"


def indivisible(demand: Demand, cards: int) -> str:
    """The model cannot be split over so many cards."""
    architecture = demand.architecture
    heads = architecture.heads or architecture.kv_heads if architecture else 0
    return f"{cards} cards cannot share the {heads} attention heads of {demand.model_name} evenly"


def unreadable(devices: Sequence[GpuDevice]) -> str:
    """Why no engine can be started on these devices."""
    return "; ".join(
        f"GPU {each.device_id} cannot be read: {each.error}"
        if each.error
        else f"GPU {each.device_id} is cut into MIG slices; name one of them"
        for each in devices
    )


def short_of_memory(
    demand: Demand, need: Need, devices: int, available_mb: int, claims: Sequence[Claim], where: str
) -> str:
    """How much is missing on the tightest of the devices, and what would fit there."""
    wanted_mb = need.per_device_mb(devices)
    ways = list(_ways(demand, need, devices, available_mb, claims, wanted_mb))
    return f"it needs {wanted_mb:,} MB ({need}), {available_mb:,} MB are free {where}; " + (
        "; ".join(ways) if ways else "nothing fits"
    )


def explain(offer: "Offer") -> str:
    """Why the node can take it."""
    where = f"GPU {', '.join(offer.gpu_devices)}" if offer.gpu_devices else "RAM"
    needed = f"{offer.need.total_mb(len(offer.gpu_devices)):,} MB are needed ({offer.need})"
    files = ", for its files are there" if offer.has_files else ""
    return (
        f"{offer.seat.node.name} has {offer.available_mb:,} MB of {where} free and {offer.replicas} replicas of the "
        f"model; {needed}, served by {offer.engine} after about {offer.ready_s} s{files}"
    )


def explain_eviction(evictions: Sequence[Eviction]) -> str:
    """Who has to make room."""
    if not evictions:
        return ""
    names = ", ".join(f"{each.deployment_id} (priority {each.priority}, {each.memory_mb:,} MB)" for each in evictions)
    return f", once {names} made room"


def passed_over(offer: "Offer", best: "Offer") -> str:
    """Why a node that fits is not the one."""
    name, of, to = best.seat.node.name, offer.rank, best.rank
    if offer.replicas != best.replicas:
        why = f"{name} has fewer replicas of the model ({best.replicas} to {offer.replicas})"
    elif offer.ready_s != best.ready_s:
        there = ", for it has the model's files" if best.has_files and not offer.has_files else ""
        why = f"{name} would serve sooner (after about {best.ready_s} s to {offer.ready_s} s){there}"
    elif of[2] != to[2]:
        why = f"{name} needs fewer cards for it ({to[2]} to {of[2]})"
    elif offer.opened != best.opened:
        why = f"{name} breaks into fewer untouched cards ({best.opened} to {offer.opened})"
    elif len(offer.seat.claims) != len(best.seat.claims):
        why = f"{name} runs fewer deployments ({len(best.seat.claims)} to {len(offer.seat.claims)})"
    elif of[4][1] != to[4][1]:
        why = f"{name} has more free memory ({-to[4][1]:,} MB to {-of[4][1]:,} MB)"
    else:
        why = f"{name} is as good"
    return f"it fits, but {why}"


def _ways(
    demand: Demand, need: Need, devices: int, available_mb: int, claims: Sequence[Claim], wanted_mb: int
) -> "Sequence[str]":
    ways = []
    concurrency = need.concurrency_within(available_mb, devices) if need.concurrency > 1 else 0
    if concurrency:
        ways.append(f"{concurrency} contexts at once would fit")
    context = 0 if concurrency else need.context_within(available_mb, devices)
    if context:
        ways.append(f"a context of {context:,} tokens would fit")
    for claim in sorted(claims, key=lambda claim: (claim.memory_mb, claim.deployment_id)):
        if available_mb + claim.memory_mb >= wanted_mb:
            ways.append(f"stopping {claim.deployment_id} ({claim.memory_mb:,} MB) would make room")
            break
    weights = need.weights_within(available_mb, devices)
    if weights and not (context or concurrency):
        halved = -(-need.weights_mb // 2) <= weights * 6 // 5
        quantised = "a revision quantised to half the bits would fit, or any " if halved else "so a smaller model: "
        ways.append(f"{quantised}weights of at most {weights:,} MB would fit")
    return ways
