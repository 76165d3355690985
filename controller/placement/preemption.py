"""Who has to make room for a higher priority: as few deployments as possible, and never one of the same priority."""

from collections.abc import Callable, Sequence
from heapq import nlargest
from itertools import combinations
from operator import attrgetter

from controller.placement.fit import Offer
from controller.placement.model import Claim, Demand, Eviction
from controller.placement.seat import Seat

# So many nodes are looked at closely: those where a single eviction would give the most.
_NODES = 24
# Sets up to this size are all tried; a larger one is found by evicting until it fits and taking back what was needless.
_SMALL = 2

Try = Callable[[Seat], Offer | None]


def cheapest_room(demand: Demand, short: Sequence[Seat], attempt: Try) -> tuple[Offer, tuple[Eviction, ...]] | None:
    """The place that costs the least evictions among nodes that only lack memory; None when none would do.

    Fewest deployments first, then those of the lowest priority, then the least memory, then the best node.
    """
    priority = demand.options.priority
    open_to = [each for each in short if each.least_priority is not None and each.least_priority < priority]
    best: tuple[tuple[object, ...], Offer, Sequence[Claim]] | None = None
    for seat in nlargest(_NODES, open_to, key=attrgetter("relief")):
        most = len(best[2]) if best else len(seat.claims)
        found = _fewest(seat, priority, most, attempt)
        if found is None:
            continue
        offer, evicted = found
        rank = (*_price(evicted), offer.rank)
        if best is None or rank < best[0]:
            best = (rank, offer, evicted)
    if best is None:
        return None
    return best[1], tuple(_eviction(claim, demand) for claim in best[2])


def _fewest(seat: Seat, priority: int, most: int, attempt: Try) -> tuple[Offer, Sequence[Claim]] | None:
    lower = sorted(
        (claim for claim in seat.claims if claim.priority < priority),
        key=lambda claim: (claim.priority, claim.memory_mb, claim.deployment_id),
    )
    if attempt(seat.without(lower)) is None:
        return None
    for size in range(1, min(_SMALL, most) + 1):
        offers = [(attempt(seat.without(evicted)), evicted) for evicted in combinations(lower, size)]
        fitting = [(offer, evicted) for offer, evicted in offers if offer is not None]
        if fitting:
            return min(fitting, key=lambda each: (*_price(each[1]), each[0].rank))
    return _pruned(seat, lower, attempt) if most > _SMALL else None


def _pruned(seat: Seat, lower: Sequence[Claim], attempt: Try) -> tuple[Offer, Sequence[Claim]] | None:
    """Evicts all, if that helps at all, and takes back one after another, the highest priority first."""
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
