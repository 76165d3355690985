"""Where a deployment goes: one pure function for the dry run and for the scheduler."""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import attrgetter

from controller.placement.alike import Alike, Shape, first_of
from controller.placement.fit import Offer, engine_of, offer_of
from controller.placement.fleet import Fleet
from controller.placement.model import (
    Cause,
    Demand,
    Eviction,
    NodeRefusal,
    Placement,
    Refusal,
    Tally,
    UnfitError,
)
from controller.placement.need import CPU, Need, need_of, parallel_sizes
from controller.placement.preemption import cheapest_room
from controller.placement.seat import Seat
from controller.placement.words import explain, explain_eviction, passed_over, unknown_need

# Of a fleet up to this size a plan explains every node; of a larger one the nearest of each cause.
EXPLAINED = 20
_EXAMPLES = 3
# The best node that has so many megabytes on each of so many cards, of which so many are in use already.
Best = Callable[[int, int, int, AbstractSet[Seat]], Seat | None]


@dataclass(slots=True)
class _Search:
    """What a look over the fleet found: the best node of each kind, and who is short of what."""

    demand: Demand
    fleet: Fleet
    best: Offer | None = None
    fitting: int = 0
    causes: Counter[Cause] = field(default_factory=Counter)
    short: list[Seat] = field(default_factory=list)
    left: list[tuple[Cause, list[Seat]]] = field(default_factory=list)
    near: list[Seat] = field(default_factory=list)


def plan(demand: Demand, fleet: Fleet) -> Placement | Refusal:
    """Chooses a node that is there, carries the labels, and has an engine, the devices, the port and the memory.

    Memory must suffice both by the node's own reading (which shows foreign processes) and by what is claimed on it.
    First come nodes with fewer replicas of the model, for a second one is there to outlive the first; then the fewest
    seconds until it serves, the fewest cards, the fewest untouched cards broken into, the least crowded node, the most
    free memory, and the id. Only where nobody has room, and only for a higher priority, deployments of lower priority
    are evicted: as few as possible. Never places a model whose need is not known.
    """
    search = _Search(demand, fleet)
    if demand.node_id is not None:
        seat = fleet.seat(demand.node_id)
        _look_at(search, [seat] if seat else [])
    else:
        for alike in fleet.groups:
            if demand.org_id in (None, alike.kind.org_id):
                _look_at_kind(search, alike)
    best: Offer | None = search.best
    evictions: tuple[Eviction, ...] = ()
    if best is None:
        room = cheapest_room(demand, search.short, lambda seat: _try(search, seat))
        if room is None:
            return Refusal(_refusals(search, None), _tallies(search, None))
        best, evictions = room
    return Placement(
        node_id=best.seat.node_id,
        node_name=best.seat.node.name,
        gpu_devices=best.gpu_devices,
        memory_mb=best.need.total_mb(len(best.gpu_devices)),
        port=demand.port,
        engine=best.engine,
        explanation=explain(best) + explain_eviction(evictions),
        refusals=_refusals(search, best),
        tallies=_tallies(search, best),
        evictions=evictions,
        ready_s=best.ready_s,
    )


def _look_at(search: _Search, seats: Sequence[Seat]) -> None:
    """Each node by itself, with everything that is asked."""
    for seat in seats:
        try:
            _keep(search, offer_of(search.demand, seat, search.fleet))
            search.fitting += 1
        except UnfitError as unfit:
            _set_aside(search, unfit.cause, [seat])


def _look_at_kind(search: _Search, alike: Alike) -> None:
    """All nodes of a kind at once; only the winner is looked at closely, and those that the refusal names."""
    demand, kind, seats = search.demand, alike.kind, alike.seats
    try:
        engine = engine_of(demand, kind)
        need = need_of(demand, engine, gpu=kind.gpu)
        if need is None:
            raise UnfitError(Cause.MEMORY, unknown_need(demand))
        if (demand.options.gpu_count and not kind.gpu) or not kind.usable:
            raise UnfitError(Cause.DEVICE, "it has no GPU, or none that works")
    except UnfitError as unfit:
        _set_aside(search, unfit.cause, seats)
        return
    seats = _labelled(search, alike)
    if demand.avoid:
        seats = _without(search, Cause.NOT_ELIGIBLE, seats, search.fleet.seats(demand.avoid))
    if demand.port:
        seats = _without(search, Cause.PORT, seats, alike.on_port(demand.port))
    sizes = parallel_sizes(demand) if kind.gpu else (CPU,)
    if not sizes:
        _set_aside(search, Cause.DEVICE, seats)
    elif demand.gpu_devices:
        _look_at_devices(search, seats, need)
    elif len(seats) == len(alike) and sizes[0] <= 1:
        _look_at_all(search, alike, [(size, need.per_device_mb(size)) for size in sizes])
    else:
        seats = _parted(
            search, Cause.DEVICE, seats, [each for each in seats if each.count >= sizes[0] or sizes[0] <= 1]
        )
        _look_at_some(search, seats, [(size, need.per_device_mb(size)) for size in sizes])


def _look_at_all(search: _Search, alike: Alike, shapes: Sequence[Shape]) -> None:
    """Every node of a kind, by what is kept sorted."""
    if any(alike.count(*shape) for shape in shapes):
        _choose(search, alike.seats, shapes, alike.best)
    fitting = alike.count_any(shapes)
    search.fitting += fitting
    search.causes[Cause.MEMORY] += len(alike) - fitting
    if not fitting:
        search.short += alike.seats
    if fitting < len(alike):
        lacking = (each for each in alike.nearest(*shapes[0]) if all(each.room_for(size) < mb for size, mb in shapes))
        search.near += islice(lacking, _EXAMPLES)


def _look_at_some(search: _Search, seats: list[Seat], shapes: Sequence[Shape]) -> None:
    """Nodes that are left after others were sifted out, in the order of preference."""
    short = seats
    for size, mb in shapes:
        short = [each for each in short if each.room_for(size) < mb]
    if len(short) < len(seats):
        search.fitting += len(seats) - len(short)
        _choose(search, seats, shapes, partial(first_of, seats))
    _set_aside(search, Cause.MEMORY, short)


def _choose(search: _Search, seats: Sequence[Seat], shapes: Sequence[Shape], best: Best) -> None:
    """Looks closely at the best node among `seats`, which are in the order of preference; `best` finds it among all.

    Nodes that run the model or have its files are looked at apart from the others, for that comes before all else.
    """
    apart = search.fleet.apart(search.demand.model_id, search.demand.digest)
    known = frozenset[Seat]().union(*(each for each in apart if each is not None))
    for group in apart:
        mine = seats if group is None else [each for each in seats if each in group]
        for size, mb in shapes:
            for cards in range(size, -1, -1):
                seat = best(size, mb, cards, known) if group is None else first_of(mine, size, mb, cards, frozenset())
                offer = _try(search, seat) if seat else None
                if offer is not None:
                    _keep(search, offer)
                    return


def _look_at_devices(search: _Search, seats: list[Seat], need: Need) -> None:
    """Nodes that have the very devices that are asked for."""
    asked = search.demand.gpu_devices
    mb = need.per_device_mb(len(asked))
    # A model cannot be split over slices of a card, whose ids name the card first.
    splittable = len(asked) == 1 or not any(":" in name for name in asked)
    there = [each for each in seats if each.devices.keys() >= set(asked)] if splittable else []
    seats = _parted(search, Cause.DEVICE, seats, there)
    fitting = _parted(
        search, Cause.MEMORY, seats, [each for each in seats if all(each.devices[name] >= mb for name in asked)]
    )
    search.fitting += len(fitting)
    untouched, apart = set(asked), search.fleet.apart(search.demand.model_id, search.demand.digest)
    known = frozenset[Seat]().union(*(each for each in apart if each is not None))
    for group in apart:
        mine = [each for each in fitting if (each in group if group is not None else each not in known)]
        offer = (
            _try(search, min(mine, key=lambda each: (len(untouched - each.held), each.preference))) if mine else None
        )
        if offer is not None:
            _keep(search, offer)
            return


def _labelled(search: _Search, alike: Alike) -> list[Seat]:
    options, seats = search.demand.options, alike.seats
    if not (options.required_labels or options.forbidden_labels):
        return seats
    kept = set(seats)
    for label in options.required_labels:
        kept &= alike.labelled(label)
    for label in options.forbidden_labels:
        kept -= alike.labelled(label)
    return _parted(search, Cause.LABELS, seats, [each for each in seats if each in kept])


def _parted(search: _Search, cause: Cause, seats: list[Seat], kept: list[Seat]) -> list[Seat]:
    if len(kept) < len(seats):
        taken = set(kept)
        _set_aside(search, cause, [each for each in seats if each not in taken])
    return kept


def _without(search: _Search, cause: Cause, seats: list[Seat], unwanted: AbstractSet[Seat]) -> list[Seat]:
    if not unwanted:
        return seats
    return _parted(search, cause, seats, [each for each in seats if each not in unwanted])


def _keep(search: _Search, offer: Offer) -> None:
    if search.best is None or offer.rank < search.best.rank:
        search.best = offer


def _try(search: _Search, seat: Seat) -> Offer | None:
    try:
        return offer_of(search.demand, seat, search.fleet)
    except UnfitError:
        return None


def _set_aside(search: _Search, cause: Cause, seats: list[Seat]) -> None:
    if not seats:
        return
    search.causes[cause] += len(seats)
    search.left.append((cause, seats))
    if cause is Cause.MEMORY:
        search.short += seats


def _tallies(search: _Search, best: Offer | None) -> tuple[Tally, ...]:
    passed = search.fitting - 1 if search.fitting else 0
    causes = search.causes - Counter({Cause.MEMORY: 1} if best is not None and not search.fitting else {})
    counts = {**causes, **({Cause.OTHER_PREFERRED: passed} if passed else {})}
    return tuple(Tally(cause, counts[cause]) for cause in Cause if counts.get(cause))


def _refusals(search: _Search, best: Offer | None) -> tuple[NodeRefusal, ...]:
    """Why the others are not chosen: all of a small fleet, the nearest to fitting of each cause of a large one."""
    demand, seats = search.demand, list[Seat]()
    if search.fitting + search.causes.total() <= EXPLAINED:
        seats = _all(search)
    else:
        for cause in Cause:
            of_cause = [each for left, group in search.left if left is cause for each in group]
            seats += _nearest([*of_cause, *(search.near if cause is Cause.MEMORY else ())])
    return tuple(
        _refusal(search, demand, seat, best) for seat in seats if best is None or seat.node_id != best.seat.node_id
    )


def _all(search: _Search) -> list[Seat]:
    demand = search.demand
    if demand.node_id is not None:
        seat = search.fleet.seat(demand.node_id)
        return [seat] if seat else []
    groups = (alike.seats for alike in search.fleet.groups if demand.org_id in (None, alike.kind.org_id))
    return sorted((seat for seats in groups for seat in seats), key=lambda seat: seat.node_id)


def _nearest(seats: list[Seat]) -> list[Seat]:
    return heapq.nlargest(_EXAMPLES, seats, key=attrgetter("room"))


def _refusal(search: _Search, demand: Demand, seat: Seat, best: Offer | None) -> NodeRefusal:
    try:
        offer = offer_of(demand, seat, search.fleet)
    except UnfitError as unfit:
        return NodeRefusal(seat.node_id, seat.node.name, unfit.cause, unfit.reason)
    reason = passed_over(offer, best) if best else "it fits"
    return NodeRefusal(seat.node_id, seat.node.name, Cause.OTHER_PREFERRED, reason)
