"""Where a deployment goes: one pure function for the dry run and for the scheduler."""

import heapq
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter

from controller.placement.alike import Alike
from controller.placement.fit import Offer, engine_of, offer_of
from controller.placement.fleet import Fleet
from controller.placement.model import (
    ANY_VALUE,
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
    seats = _labelled(search, seats)
    if demand.avoid:
        seats = _parted(search, Cause.NOT_ELIGIBLE, seats, [each for each in seats if each.node_id not in demand.avoid])
    if demand.port:
        seats = _parted(search, Cause.PORT, seats, [each for each in seats if demand.port not in each.ports])
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


def _look_at_all(search: _Search, alike: Alike, shapes: Sequence[tuple[int, int]]) -> None:
    """Every node of a kind, by what is kept sorted. `shapes` are numbers of cards, and what is needed on each."""
    apart = search.fleet.apart(search.demand.model_id, search.demand.digest)
    if apart:
        known = [search.fleet.seat(each) for each in apart]
        _look_again(search, [each for each in known if each is not None and each.kind == alike.kind])
    for size, mb in shapes:
        if not alike.count(size, mb):
            continue
        ways = (alike.sharing(size, mb, cards) for cards in range(size, -1, -1))
        first = next((each for seats in ways for each in seats if each.node_id not in apart), None)
        if first is not None:
            _look_again(search, [first])
            break
    fitting = alike.count_any(shapes)
    search.fitting += fitting
    search.causes[Cause.MEMORY] += len(alike) - fitting
    if not fitting:
        search.short += alike.seats
    if fitting < len(alike):
        lacking = (each for each in alike.nearest(*shapes[0]) if all(each.room_for(size) < mb for size, mb in shapes))
        search.near += islice(lacking, _EXAMPLES)


def _look_at_some(search: _Search, seats: list[Seat], shapes: Sequence[tuple[int, int]]) -> None:
    """Nodes that are left after others were sifted out, in the order of preference."""
    apart = search.fleet.apart(search.demand.model_id, search.demand.digest)
    for size, mb in shapes:
        fitting = [each for each in seats if each.room_for(size) >= mb]
        if not fitting:
            continue
        search.fitting += len(fitting)
        _look_again(search, [each for each in fitting if each.node_id in apart])
        ways = ((each for each in fitting if each.shared_room(cards) >= mb) for cards in range(size, -1, -1))
        first = next((each for way in ways for each in way if each.node_id not in apart), None)
        _look_again(search, [first] if first else [])
        seats = [] if len(fitting) == len(seats) else _others(seats, fitting)
    _set_aside(search, Cause.MEMORY, seats)


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
    apart = search.fleet.apart(search.demand.model_id, search.demand.digest)
    _look_again(search, [each for each in fitting if each.node_id in apart])
    others = [each for each in fitting if each.node_id not in apart]
    if others:
        untouched = set(asked)
        _look_again(search, [min(others, key=lambda each: (len(untouched - each.held), each.preference))])


def _labelled(search: _Search, seats: list[Seat]) -> list[Seat]:
    options = search.demand.options
    kept = seats
    for labels, wanted in ((options.required_labels, True), (options.forbidden_labels, False)):
        pairs = {(name, value) for name, value in labels if value != ANY_VALUE}
        names = {name for name, value in labels if value == ANY_VALUE}
        if pairs:
            kept = [each for each in kept if (pairs <= each.labels if wanted else pairs.isdisjoint(each.labels))]
        if names:
            kept = [each for each in kept if (names <= each.label_names if wanted else not names & each.label_names)]
    return _parted(search, Cause.LABELS, seats, kept)


def _parted(search: _Search, cause: Cause, seats: list[Seat], kept: list[Seat]) -> list[Seat]:
    if len(kept) < len(seats):
        _set_aside(search, cause, _others(seats, kept))
    return kept


def _look_again(search: _Search, seats: Sequence[Seat]) -> None:
    for seat in seats:
        offer = _try(search, seat)
        if offer is not None:
            _keep(search, offer)


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


def _others(seats: list[Seat], taken: Collection[Seat]) -> list[Seat]:
    names = {each.node_id for each in taken}
    return [each for each in seats if each.node_id not in names]


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
