"""Whatever the fleet and the wishes: nothing is promised twice, and room that comes never turns a yes into a no."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.nodes.devices import GpuDevice
from controller.nodes.model import Node, NodeId
from controller.placement.fit import Offer, offer_of
from controller.placement.fleet import Fleet
from controller.placement.model import Candidate, Claim, Demand, Options, Placement, Refusal, UnfitError
from controller.placement.plan import plan
from controller.placement.seat import RESERVED_RAM_MB
from tests.controller.placement.test_plan import LARGE, TINY, demand, node

SPLIT = replace(LARGE, heads=32)
sizes = st.builds(lambda total, share: (total, total * share // 100), st.integers(1_000, 80_000), st.integers(0, 100))


@st.composite
def cards(draw: st.DrawFn) -> list[GpuDevice]:
    made: list[GpuDevice] = []
    for index, (total, free) in enumerate(draw(st.lists(sizes, max_size=4))):
        kind = draw(st.sampled_from(["whole", "whole", "exclusive", "mps", "cut", "broken"]))
        card = GpuDevice(
            str(index),
            memory_total=total,
            memory_free=free,
            exclusive=kind in ("exclusive", "mps"),
            mps=kind == "mps",
            mig=kind == "cut",
            error="lost" if kind == "broken" else "",
        )
        slices = draw(st.integers(1, 3)) if kind == "cut" else 0
        part = {"memory_total": total // 4, "memory_free": total // 4, "parent_device_id": str(index)}
        made += [card, *(GpuDevice(f"{index}:{each}", mig_profile="1g", **part) for each in range(slices))]
    return made


@st.composite
def machines(draw: st.DrawFn) -> Node:
    name = draw(st.text("abc", min_size=3, max_size=3))
    total, free = draw(sizes)
    labels = draw(st.dictionaries(st.sampled_from(["zone", "tier"]), st.sampled_from(["a", "b"])))
    return replace(node(name, gpus=draw(cards()), free=free, total=total), labels=labels)


fleets = st.lists(machines(), min_size=1, max_size=4, unique_by=lambda each: each.node_id)
options = st.builds(
    Options,
    context=st.sampled_from([0, 256, 4_096]),
    concurrency=st.sampled_from([0, 1, 4]),
    gpu_count=st.sampled_from([0, 0, 1, 2]),
    required_labels=st.sampled_from([(), (), (("zone", "a"),), (("tier", "*"),)]),
    forbidden_labels=st.sampled_from([(), (), (("zone", "b"),)]),
    priority=st.integers(0, 3),
)
demands = st.builds(
    lambda model, weights, architecture, port, asked: replace(
        demand(weights, architecture), model_id=model, port=port, options=asked
    ),
    st.sampled_from(["model-a", "model-b", "model-c"]),
    st.integers(0, 60_000),
    st.sampled_from([TINY, LARGE, SPLIT, None]),
    st.sampled_from([0, 0, 9000, 9001]),
    options,
)
wishes = st.lists(demands, max_size=12)


def candidates(fleet: Iterable[Node], claims: dict[NodeId, list[Claim]]) -> list[Candidate]:
    return [Candidate(each, tuple(claims[each.node_id])) for each in fleet]


def placing(fleet: list[Node], asked: Iterable[Demand]) -> dict[NodeId, list[Claim]]:
    """What is claimed once everything was placed that could be, with what was evicted for it gone."""
    claims: dict[NodeId, list[Claim]] = {each.node_id: [] for each in fleet}
    for number, wish in enumerate(asked):
        outcome = plan(wish, Fleet(candidates(fleet, claims)))
        if isinstance(outcome, Placement):
            gone = {each.deployment_id for each in outcome.evictions}
            kept = [claim for claim in claims[outcome.node_id] if claim.deployment_id not in gone]
            each_mb = outcome.memory_mb // max(1, len(outcome.gpu_devices))
            name, priority = f"dep-{number}", wish.options.priority
            kept.append(Claim(name, wish.model_id, each_mb, outcome.gpu_devices, outcome.port, priority=priority))
            claims[outcome.node_id] = kept
    return claims


@given(fleets, wishes)
def test_no_memory_port_slice_or_exclusive_card_is_promised_twice(fleet: list[Node], asked: list[Demand]) -> None:
    claims = placing(fleet, asked)
    for machine in fleet:
        mine = claims[machine.node_id]
        ports = [claim.port for claim in mine if claim.port]
        assert len(ports) == len(set(ports))
        for device in machine.gauges.gpu_devices:
            held = [claim.memory_mb for claim in mine if device.device_id in claim.gpu_devices]
            assert sum(held) <= min(device.memory_free, device.memory_total)
            assert not (held and not device.usable)
            assert not (device.single and len(held) > 1)
        in_ram = sum(claim.memory_mb for claim in mine if not claim.gpu_devices)
        assert in_ram <= max(0, machine.gauges.ram_free - RESERVED_RAM_MB)


@given(fleets, wishes, demands)
def test_a_plan_is_the_same_however_the_fleet_came_to_be_known(
    fleet: list[Node], asked: list[Demand], wish: Demand
) -> None:
    known = candidates(fleet, placing(fleet, asked))
    outcome = plan(wish, Fleet(known))
    grown = Fleet([*(Candidate(each) for each in fleet), *reversed(known)])
    assert plan(wish, grown) == outcome
    if isinstance(outcome, Placement):
        # What the node's lock lets through is what was planned.
        chosen = [each for each in known if each.node.node_id == outcome.node_id]
        again = plan(replace(wish, node_id=outcome.node_id), Fleet(chosen))
        assert isinstance(again, Placement)
        assert (again.gpu_devices, again.memory_mb, again.evictions) == (
            outcome.gpu_devices,
            outcome.memory_mb,
            outcome.evictions,
        )
    assert sum(tally.nodes for tally in outcome.tallies) == len(fleet) - isinstance(outcome, Placement)


@given(fleets, wishes, demands, st.sets(st.integers(0, 3)))
def test_the_index_chooses_what_a_look_at_each_node_would_choose(
    fleet: list[Node], asked: list[Demand], wish: Demand, cached: set[int]
) -> None:
    wish = replace(wish, digest="sha256:weights", options=replace(wish.options, priority=-1))
    known = Fleet(candidates(fleet, placing(fleet, asked)))
    for number, machine in enumerate(fleet):
        known.cache(machine.node_id, ["sha256:weights"] if number in cached else [])
    outcome = plan(wish, known)
    offers = [offer for each in fleet if (offer := _offer(wish, known, each)) is not None]
    if isinstance(outcome, Refusal):
        assert not offers
        return
    best = min(offers, key=lambda offer: offer.rank)
    assert (outcome.node_id, outcome.gpu_devices) == (best.seat.node_id, best.gpu_devices)


def _offer(wish: Demand, fleet: Fleet, machine: Node) -> Offer | None:
    seat = fleet.seat(machine.node_id)
    assert seat is not None
    try:
        return offer_of(wish, seat, fleet)
    except UnfitError:
        return None


@given(fleets, wishes, demands)
def test_one_eviction_is_never_missed_nor_a_cheaper_one(fleet: list[Node], asked: list[Demand], wish: Demand) -> None:
    claims = placing(fleet, asked)
    outcome = plan(wish, Fleet(candidates(fleet, claims)))
    if isinstance(outcome, Placement) and not outcome.evictions:
        return
    meek = replace(wish, options=replace(wish.options, priority=-1))
    enough = [
        (claim.priority, claim.memory_mb)
        for machine in fleet
        for claim in claims[machine.node_id]
        if claim.priority < wish.options.priority
        and isinstance(plan(meek, _fleet_without(fleet, claims, claim)), Placement)
    ]
    if not enough:
        assert isinstance(outcome, Refusal) or len(outcome.evictions) > 1
        return
    assert isinstance(outcome, Placement)
    (gone,) = outcome.evictions
    memory_mb = next(
        claim.memory_mb for held in claims.values() for claim in held if claim.deployment_id == gone.deployment_id
    )
    assert (gone.priority, memory_mb) == min(enough)


def _fleet_without(fleet: Iterable[Node], claims: dict[NodeId, list[Claim]], gone: Claim) -> Fleet:
    kept = {name: [claim for claim in held if claim is not gone] for name, held in claims.items()}
    return Fleet(candidates(fleet, kept))


@given(fleets, wishes, demands, st.data())
def test_freeing_memory_never_turns_a_yes_into_a_no(
    fleet: list[Node], asked: list[Demand], wish: Demand, data: st.DataObject
) -> None:
    claims = placing(fleet, asked)
    before = plan(wish, Fleet(candidates(fleet, claims)))
    if isinstance(before, Placement):
        freer = [_with_free_cards(each) for each in fleet]
        assert isinstance(plan(wish, Fleet(candidates(freer, claims))), Placement)
    held = [(name, claim) for name, mine in claims.items() for claim in mine]
    if isinstance(before, Refusal) or not held:
        return
    name, gone = data.draw(st.sampled_from(held))
    claims[name].remove(gone)
    assert isinstance(plan(wish, Fleet(candidates(fleet, claims))), Placement)


def _with_free_cards(machine: Node) -> Node:
    devices = tuple(replace(each, memory_free=each.memory_total) for each in machine.gauges.gpu_devices)
    return replace(machine, gauges=replace(machine.gauges, gpu_devices=devices))


@given(fleets, wishes, demands)
def test_nobody_is_evicted_who_need_not_be_nor_by_an_equal(
    fleet: list[Node], asked: list[Demand], wish: Demand
) -> None:
    claims = placing(fleet, asked)
    outcome = plan(wish, Fleet(candidates(fleet, claims)))
    if isinstance(outcome, Refusal) or not outcome.evictions:
        return
    assert all(each.priority < wish.options.priority for each in outcome.evictions)
    meek = replace(wish, options=replace(wish.options, priority=-1), node_id=outcome.node_id)
    machine = next(each for each in fleet if each.node_id == outcome.node_id)
    evicted = [each.deployment_id for each in outcome.evictions]
    for spared in evicted:
        gone = set(evicted) - {spared}
        kept = tuple(claim for claim in claims[machine.node_id] if claim.deployment_id not in gone)
        assert isinstance(plan(meek, Fleet([Candidate(machine, kept)])), Refusal)
