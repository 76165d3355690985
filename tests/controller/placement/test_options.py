"""What a deployment asks for decides about memory, cards and nodes, and a higher priority finds room."""

from dataclasses import replace

import pytest

from controller.models.model import ModelId
from controller.nodes.devices import GpuDevice
from controller.nodes.model import NodeId
from controller.placement.fleet import Fleet
from controller.placement.model import Candidate, Cause, Claim, Demand, Options, Peak, PeakKey
from controller.placement.need import TRUSTED_SAMPLES
from controller.placement.plan import EXPLAINED
from controller.placement.plan import plan as plan_in
from tests.controller.placement.test_plan import LARGE, demand, gpu, node, placed, plan, refused

SPLIT = replace(LARGE, heads=32, kv_heads=8)


def asking(wish: Demand, **options: object) -> Demand:
    return replace(wish, options=Options(**options))  # type: ignore[arg-type]


def test_the_cache_grows_with_context_and_concurrency() -> None:
    def memory(**options: object) -> int:
        return placed(plan(asking(demand(1_000, LARGE), **options), [Candidate(node(gpus=[gpu()]))])).memory_mb

    # 2 × 32 layers × 8 heads × 128 × 2 bytes are 128 KiB a token.
    assert memory() - memory(context=4_096) == 512
    assert memory(concurrency=4) - memory() == 3 * 1_024
    assert memory(context=4_096, concurrency=4) == memory(concurrency=2)


def test_a_refusal_says_which_context_or_how_many_at_once_would_fit() -> None:
    many = refused(plan(asking(demand(8_000, LARGE), concurrency=8), [Candidate(node(gpus=[gpu(free=16_000)]))]))
    assert many[0] is Cause.MEMORY
    assert "4 contexts at once would fit" in many[1]


def test_so_many_cards_as_are_asked_for_share_the_model_where_its_heads_divide() -> None:
    cards = [Candidate(node(gpus=[gpu(str(number)) for number in range(4)]))]
    assert placed(plan(asking(demand(8_000, SPLIT), gpu_count=2), cards)).gpu_devices == ("0", "1")
    cause, reason = refused(plan(asking(demand(8_000, SPLIT), gpu_count=3), cards))
    assert cause is Cause.DEVICE
    assert "32 attention heads" in reason
    assert "4 cards" in refused(plan(asking(demand(8_000, SPLIT), gpu_count=8), cards))[1]
    assert refused(plan(asking(demand(), gpu_count=1), [Candidate(node())]))[0] is Cause.DEVICE


def test_fewer_key_value_heads_than_cards_are_copied() -> None:
    cards = [Candidate(node(gpus=[gpu(str(number)) for number in range(4)]))]
    few = replace(SPLIT, kv_heads=2)
    four = placed(plan(asking(demand(8_000, few), gpu_count=4, concurrency=8), cards))
    two = placed(plan(asking(demand(8_000, few), gpu_count=2, concurrency=8), cards))
    # 8 contexts of 256 MB are 2,048 MB, of which four cards hold two copies.
    assert four.memory_mb - two.memory_mb == pytest.approx(2 * 2_200 + 2_048, abs=4)


def test_labels_choose_nodes_and_a_refusal_says_which_one_lacks() -> None:
    gold, plain = replace(node("gold", free=2_000), labels={"tier": "gold", "zone": "a"}), node("plain")
    fleet = [Candidate(gold), Candidate(plain)]
    assert placed(plan(asking(demand(), required_labels=(("tier", "gold"),)), fleet)).node_name == "gold"
    assert placed(plan(asking(demand(), required_labels=(("zone", "*"),)), fleet)).node_name == "gold"
    assert placed(plan(asking(demand(), forbidden_labels=(("tier", "gold"),)), fleet)).node_name == "plain"
    assert placed(plan(asking(demand(), forbidden_labels=(("zone", "*"),)), fleet)).node_name == "plain"
    cause, reason = refused(plan(asking(demand(), required_labels=(("tier", "iron"),)), fleet[:1]))
    assert (cause, reason) == (Cause.LABELS, "it lacks the label tier=iron; it has tier=gold, zone=a")
    assert refused(plan(asking(demand(), forbidden_labels=(("zone", "a"),)), fleet[:1]))[1] == "it has the label zone=a"


def test_a_model_goes_where_its_files_are_and_no_untouched_card_is_broken_into_without_need() -> None:
    cold, warm = Candidate(node("cold", gpus=[gpu()])), Candidate(node("warm", gpus=[gpu(free=20_000)]))
    fleet = Fleet([cold, warm])
    wish = replace(demand(8_000, LARGE), digest="abc")
    assert placed(plan_in(wish, fleet)).node_name == "cold"
    fleet.cache(NodeId("node-warm"), ["abc"])
    chosen = placed(plan_in(wish, fleet))
    assert (chosen.node_name, chosen.ready_s) == ("warm", 16)
    assert "would serve sooner" in chosen.refusals[0].reason
    shared = Candidate(node("shared", gpus=[gpu("0"), gpu("1")]), (Claim("dep-1", ModelId("b"), 5_000, ("1",)),))
    joined = placed(plan(demand(8_000, LARGE), [cold, shared]))
    assert (joined.node_name, joined.gpu_devices) == ("shared", ("1",))
    assert "fewer untouched cards" in joined.refusals[0].reason


def test_a_slice_of_a_card_belongs_to_one_engine_and_is_taken_before_a_whole_card() -> None:
    whole = GpuDevice("0", memory_total=80_000, memory_free=79_000, mig=True)
    slices = [
        GpuDevice(f"0:{number}", memory_total=9_728, memory_free=9_700, parent_device_id="0", mig_profile="1g.10gb")
        for number in (3, 4)
    ]
    machine = node(gpus=[whole, *slices, gpu("1")])
    first = placed(plan(demand(), [Candidate(machine)]))
    assert first.gpu_devices == ("0:3",)
    held = Claim("dep-1", ModelId("model-b"), first.memory_mb, ("0:3",))
    assert placed(plan(demand(), [Candidate(machine, (held,))])).gpu_devices == ("0:4",)
    both = (held, replace(held, deployment_id="dep-2", gpu_devices=("0:4",)))
    assert placed(plan(demand(), [Candidate(machine, both)])).gpu_devices == ("1",)
    assert refused(plan(replace(demand(), gpu_devices=("0:3",)), [Candidate(machine, both)]))[0] is Cause.MEMORY
    cut = refused(plan(replace(demand(), gpu_devices=("0",)), [Candidate(machine)]))
    assert cut == (Cause.DEVICE, "GPU 0 is cut into MIG slices; name one of them")
    two = asking(demand(8_000, SPLIT), gpu_count=2)
    assert refused(plan(two, [Candidate(machine)]))[0] is Cause.DEVICE


def test_a_card_for_one_process_alone_is_shared_only_through_mps() -> None:
    alone = replace(gpu(), exclusive=True)
    holder = Claim("dep-1", ModelId("model-b"), 1_000, ("0",))
    assert refused(plan(demand(), [Candidate(node(gpus=[alone]), (holder,))]))[0] is Cause.MEMORY
    assert placed(plan(demand(), [Candidate(node(gpus=[replace(alone, mps=True)]), (holder,))]))


def test_a_measured_peak_raises_a_need_at_once_and_lowers_it_when_it_is_trusted() -> None:
    def memory(mb: int, samples: int) -> int:
        key = PeakKey(ModelId("model-a"), "", "transformers", 0, 0, 0)
        return placed(plan(replace(demand(), peaks={key: Peak(mb, samples)}), [Candidate(node())])).memory_mb

    estimate = placed(plan(demand(), [Candidate(node())])).memory_mb
    assert memory(1_000, 1) == 1_100
    assert memory(100, TRUSTED_SAMPLES - 1) == estimate
    assert memory(100, TRUSTED_SAMPLES) == 110


def holder(name: str, mb: int, priority: int, device: str = "0") -> Claim:
    return Claim(name, ModelId(f"model-{name}"), mb, (device,), settled_mb=mb, priority=priority)


def test_a_higher_priority_evicts_as_few_as_it_must_and_says_whom() -> None:
    crowded = node(gpus=[gpu("0", free=3_000), gpu("1", free=3_000)])
    claims = (holder("a", 9_000, 0), holder("b", 12_000, 0), holder("c", 10_000, 1, "1"), holder("d", 11_000, 5, "1"))
    fleet = [Candidate(crowded, claims)]
    wish = demand(8_000, LARGE)
    assert refused(plan(wish, fleet))[0] is Cause.MEMORY
    chosen = placed(plan(asking(wish, priority=1), fleet))
    assert [each.deployment_id for each in chosen.evictions] == ["b"]
    assert chosen.gpu_devices == ("0",)
    assert "priority 1" in chosen.evictions[0].reason
    assert "once b" in chosen.explanation
    both = placed(plan(asking(demand(15_000, SPLIT), priority=2, gpu_count=1), fleet))
    assert sorted(each.deployment_id for each in both.evictions) == ["a", "b"]


def test_an_equal_priority_is_never_evicted_and_nobody_is_while_there_is_room() -> None:
    full = Candidate(node("full", gpus=[gpu(free=2_000)]), (holder("a", 22_000, 3),))
    wish = demand(8_000, LARGE)
    assert refused(plan(asking(wish, priority=3), [full]))[0] is Cause.MEMORY
    assert placed(plan(asking(wish, priority=4), [full])).evictions
    free = placed(plan(asking(wish, priority=4), [full, Candidate(node("free", gpus=[gpu()]))]))
    assert (free.node_name, free.evictions) == ("free", ())
    # A foreign process cannot be evicted.
    foreign = Candidate(node("foreign", gpus=[gpu(free=2_000)]), (holder("a", 1_000, 0),))
    assert refused(plan(asking(wish, priority=4), [foreign]))[0] is Cause.MEMORY


def test_a_large_fleet_is_counted_by_cause_and_explained_by_its_nearest_nodes() -> None:
    fleet = [Candidate(node(f"{number:04}", gpus=[gpu(free=number)])) for number in range(200)]
    fleet += [Candidate(replace(node(f"old-{number}"), engines=("triton",))) for number in range(100)]
    outcome = plan(demand(8_000, LARGE), fleet)
    assert {tally.cause: tally.nodes for tally in outcome.tallies} == {Cause.MEMORY: 200, Cause.ENGINE: 100}
    assert len(outcome.refusals) <= EXPLAINED
    nearest = [each.node_name for each in outcome.refusals if each.cause is Cause.MEMORY]
    assert nearest == ["0199", "0198", "0197"]
