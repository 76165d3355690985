"""Who has to make room for a higher priority: as few deployments as possible, and never one of the same priority."""

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, nlargest
from itertools import combinations, groupby, islice
from operator import attrgetter

from controller.nodes.model import NodeId
from controller.placement.alike import Shape
from controller.placement.fit import Offer, engine_of
from controller.placement.model import Claim, Demand, Eviction
from controller.placement.need import CPU, need_of, parallel_sizes
from controller.placement.seat import Kind, Seat

# Where one eviction is not enough, so many nodes are looked at closely: those where evicting all would give the most.
_NODES = 48
# Sets up to this size are all tried; a larger one is found by evicting until it fits and taking back what was needless.
_SMALL = 2
# The sums that say where one eviction is enough are too hopeful at times; after so many tries nobody hopes any more.
_TRIES = 128
# So many nodes that would do as well as the best are compared by what else makes a place good.
_EQUALS = 16
_BOUNDLESS = 2**62

Try = Callable[[Seat], Offer | None]
Room = tuple[Offer, tuple[Eviction, ...]]


def cheapest_room(demand: Demand, short: Sequence[Seat], attempt: Try) -> Room | None:
    """The place that costs the least evictions among nodes that only lack memory; None when none would do.

    Fewest deployments first, then those of the lowest priority, then the least memory, then the best node. Every node
    is looked at for a single eviction; for several, those where evicting every lower one would give the most.
    """
    priority = demand.options.priority
    open_to = [each for each in short if each.least_priority is not None and each.least_priority < priority]
    if not open_to:
        return None
    found = _one(demand, open_to, attempt) or _several(priority, open_to, attempt)
    return (found[0], tuple(_eviction(claim, demand) for claim in found[1])) if found else None


def _one(demand: Demand, seats: Sequence[Seat], attempt: Try) -> tuple[Offer, Sequence[Claim]] | None:
    """The best single eviction in the whole fleet: tried in the order of what they cost."""
    best: tuple[int, int, Offer, Claim] | None = None
    equals = 0
    for priority, memory_mb, seat, claim in islice(_singles(demand, seats), _TRIES):
        if best is not None and (best[:2] != (priority, memory_mb) or equals == _EQUALS):
            break
        offer = attempt(seat.without([claim]))
        if offer is None:
            continue
        equals += 1
        if best is None or offer.rank < best[2].rank:
            best = (priority, memory_mb, offer, claim)
    return (best[2], [best[3]]) if best else None


def _singles(demand: Demand, seats: Sequence[Seat]) -> Iterator[tuple[int, int, Seat, Claim]]:
    """Claims of lower priority without which the node may have room, those that cost the least first."""
    priority, asked = demand.options.priority, set(demand.gpu_devices)
    likely: list[tuple[int, int, tuple[int, int, NodeId], int, Seat, Sequence[Shape]]] = []
    for kind, alike in groupby(seats, key=attrgetter("kind")):
        shapes = _shapes(demand, kind)
        least = min((mb for _, mb in shapes), default=_BOUNDLESS)
        likely += [
            (relief.priority, relief.memory_mb, seat.preference, number, seat, shapes)
            for seat in alike
            for number, relief in enumerate(seat.reliefs)
            if relief.mb >= least and relief.priority < priority
        ]
    heapify(likely)
    while likely:
        lower, memory_mb, _, number, seat, shapes = heappop(likely)
        claim = seat.claims[number]
        on_asked = not asked or not asked.isdisjoint(claim.gpu_devices)
        if on_asked and any(_may_do(seat, claim, size, mb) for size, mb in shapes):
            yield lower, memory_mb, seat, claim


def _shapes(demand: Demand, kind: Kind) -> Sequence[Shape]:
    need = need_of(demand, engine_of(demand, kind), gpu=kind.gpu)
    sizes = parallel_sizes(demand) if kind.gpu else (CPU,)
    return [(size, need.per_device_mb(size)) for size in sizes] if need else []


def _may_do(seat: Seat, claim: Claim, size: int, mb: int) -> bool:
    """Whether the claim's own cards and those with room already are enough."""
    others = size - len(claim.gpu_devices)
    return others <= 0 or seat.room_for(others) >= mb


def _several(priority: int, seats: Sequence[Seat], attempt: Try) -> tuple[Offer, Sequence[Claim]] | None:
    best: tuple[tuple[object, ...], Offer, Sequence[Claim]] | None = None
    for seat in nlargest(_NODES, seats, key=lambda each: _potential(each, priority)):
        found = _fewest(seat, priority, len(best[2]) if best else len(seat.claims), attempt)
        if found is None:
            continue
        offer, evicted = found
        rank = (*_price(evicted), offer.rank)
        if best is None or rank < best[0]:
            best = (rank, offer, evicted)
    return best[1:] if best else None


def _potential(seat: Seat, priority: int) -> int:
    """What there would be altogether if every lower priority went."""
    lower = sum(each.memory_mb * max(1, len(each.gpu_devices)) for each in seat.claims if each.priority < priority)
    return seat.ram + sum(seat.devices.values()) + lower


def _fewest(seat: Seat, priority: int, most: int, attempt: Try) -> tuple[Offer, Sequence[Claim]] | None:
    lower = sorted(
        (claim for claim in seat.claims if claim.priority < priority),
        key=lambda claim: (claim.priority, claim.memory_mb, claim.deployment_id),
    )
    if attempt(seat.without(lower)) is None:
        return None
    # One alone was tried everywhere.
    for size in range(2, min(_SMALL, most) + 1):
        offers = [(attempt(seat.without(evicted)), evicted) for evicted in combinations(lower, size)]
        fitting = [(offer, evicted) for offer, evicted in offers if offer is not None]
        if fitting:
            return min(fitting, key=lambda each: (*_price(each[1]), each[0].rank))
    return _pruned(seat, lower, attempt) if most > _SMALL else None


def _pruned(seat: Seat, lower: Sequence[Claim], attempt: Try) -> tuple[Offer, Sequence[Claim]] | None:
    """Evicts all, which helps, and takes back one after another, the highest priority first."""
    offer = attempt(seat.without(lower)) if lower else None
    if offer is None:
        return None
    needed = list(lower)
    for claim in sorted(lower, key=lambda each: (-each.priority, -each.memory_mb, each.deployment_id)):
        fewer = [each for each in needed if each is not claim]
        without = attempt(seat.without(fewer))
        if without is not None:
            offer, needed = without, fewer
    return offer, needed


def _price(evicted: Sequence[Claim]) -> tuple[int, int, int]:
    return (len(evicted), max(claim.priority for claim in evicted), sum(claim.memory_mb for claim in evicted))


def _eviction(claim: Claim, demand: Demand) -> Eviction:
    priority = demand.options.priority
    return Eviction(
        claim.deployment_id,
        claim.priority,
        claim.memory_mb * max(1, len(claim.gpu_devices)),
        f"{demand.model_name} has priority {priority}, it has {claim.priority}, and there is no other room",
    )
