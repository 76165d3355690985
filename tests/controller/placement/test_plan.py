"""Placement never promises what a node does not have, says the same each time, and says why."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.models.model import MIB, Architecture, ModelId
from controller.nodes.devices import GpuDevice
from controller.nodes.model import Gauges, Node, NodeId, NodeRole, NodeStatus
from controller.nodes.runtimes import Runtimes
from controller.placement.fleet import Fleet
from controller.placement.model import Candidate, Cause, Claim, Demand, Options, Placement, Refusal
from controller.placement.plan import plan as plan_in
from mesh.identity import OrgId, UserId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TINY = Architecture(layers=2, kv_heads=2, head_dim=16, context=512, dtype="float32")
LARGE = Architecture(layers=32, kv_heads=8, head_dim=128, context=8192, dtype="bfloat16")


def node(name: str = "one", *, gpus: Iterable[GpuDevice] = (), free: int = 8_000, total: int = 16_000) -> Node:
    gauges = Gauges(gpu_devices=tuple(gpus), ram_total=total, ram_free=free)
    made = Node(NodeId(f"node-{name}"), name, OrgId("o"), UserId("u"), NOW, NOW, gauges=gauges)
    return replace(made, status=NodeStatus.ONLINE, engines=("vllm", "transformers") if gpus else ("transformers",))


def gpu(device_id: str = "0", free: int = 24_000, total: int = 24_000, error: str = "") -> GpuDevice:
    return GpuDevice(device_id, memory_total=total, memory_free=free, error=error)


def demand(weights_mb: int = 8, architecture: Architecture | None = TINY) -> Demand:
    return Demand(ModelId("model-a"), "tiny", "vllm", "llm", weights_mb * MIB, architecture)


def plan(wish: Demand, candidates: Iterable[Candidate]) -> Placement | Refusal:
    return plan_in(wish, Fleet(candidates))


def placed(outcome: Placement | Refusal) -> Placement:
    assert isinstance(outcome, Placement), outcome
    return outcome


def refused(outcome: Placement | Refusal) -> tuple[Cause, str]:
    assert isinstance(outcome, Refusal), outcome
    (refusal,) = outcome.refusals
    return refusal.cause, refusal.reason


def test_a_small_model_goes_to_a_cpu_node_with_transformers() -> None:
    placement = placed(plan(demand(), [Candidate(node())]))
    assert (placement.node_id, placement.engine, placement.gpu_devices) == ("node-one", "transformers", ())
    assert 600 < placement.memory_mb < 700
    assert "weights 10" in placement.explanation


def test_a_node_whose_disk_is_full_takes_nothing() -> None:
    room = node("room", free=2_000)
    crammed = node("crammed")
    crammed = replace(crammed, gauges=replace(crammed.gauges, disk_total=50_000, disk_free=0))
    placement = placed(plan(demand(), [Candidate(crammed), Candidate(room)]))
    assert placement.node_name == "room"
    assert [(each.node_name, each.reason) for each in placement.refusals] == [("crammed", "its disk is full")]
    assert refused(plan(demand(), [Candidate(crammed)])) == (Cause.NOT_ELIGIBLE, "its disk is full")


def test_nodes_to_avoid_are_passed_over() -> None:
    candidates = [Candidate(node("one")), Candidate(node("two", free=2_000))]
    wish = replace(demand(), avoid=frozenset({NodeId("node-one")}))
    placement = placed(plan(wish, candidates))
    assert placement.node_name == "two"
    assert [(each.node_name, each.reason) for each in placement.refusals] == [("one", "it failed there before")]
    assert refused(plan(wish, candidates[:1])) == (Cause.NOT_ELIGIBLE, "it failed there before")


def test_fewer_replicas_of_the_model_come_before_more_free_memory() -> None:
    roomy, tight = node("roomy", free=12_000), node("tight", free=2_000)
    assert placed(plan(demand(), [Candidate(roomy), Candidate(tight)])).node_name == "roomy"
    mine = Claim("dep-1", ModelId("model-a"), 650)
    other = Claim("dep-2", ModelId("model-b"), 650)
    placement = placed(plan(demand(), [Candidate(roomy, (mine,)), Candidate(tight, (other,))]))
    assert placement.node_name == "tight"
    (refusal,) = placement.refusals
    assert (refusal.node_name, refusal.cause) == ("roomy", Cause.OTHER_PREFERRED)
    assert "fewer replicas" in refusal.reason


def test_a_foreign_process_in_a_cards_memory_keeps_models_away() -> None:
    busy = node(gpus=[gpu("0", free=5_000)])
    cause, reason = refused(plan(demand(8_000, LARGE), [Candidate(busy)]))
    assert cause is Cause.MEMORY
    assert "5,000 MB are free on GPU 0" in reason
    assert placed(plan(demand(8_000, LARGE), [Candidate(node(gpus=[gpu("0", free=5_000), gpu("1")]))])).gpu_devices == (
        "1",
    )


def test_claims_that_a_reading_does_not_show_yet_count_and_those_that_it_shows_count_once() -> None:
    machine = node(free=2_000)
    pending = Claim("dep-1", ModelId("model-b"), 1_500)
    assert refused(plan(demand(), [Candidate(machine, (pending,))]))[0] is Cause.MEMORY
    settled = replace(pending, settled_mb=1_500)
    assert placed(plan(demand(), [Candidate(machine, (settled,))]))
    crowded = tuple(Claim(f"dep-{number}", ModelId("model-b"), 1_600, settled_mb=1_600) for number in range(10))
    assert refused(plan(demand(), [Candidate(node(free=9_000), crowded)]))[0] is Cause.MEMORY


def test_a_large_model_is_split_over_as_few_cards_as_hold_it() -> None:
    cards = [gpu(str(number)) for number in range(4)]
    placement = placed(plan(demand(30_000, LARGE), [Candidate(node(gpus=cards))]))
    assert placement.gpu_devices == ("0", "1")
    assert placement.memory_mb <= 2 * 24_000
    three_heads = replace(LARGE, kv_heads=3)
    assert refused(plan(demand(30_000, three_heads), [Candidate(node(gpus=cards))]))[0] is Cause.MEMORY


def test_a_need_that_is_not_known_is_refused_and_never_taken_for_none() -> None:
    assert "unknown" in refused(plan(demand(8, None), [Candidate(node())]))[1]
    assert refused(plan(demand(0), [Candidate(node())]))[0] is Cause.MEMORY


@pytest.mark.parametrize(
    ("machine", "cause", "words"),
    [
        (replace(node(), status=NodeStatus.OFFLINE), Cause.NOT_ELIGIBLE, "offline"),
        (replace(node(), status=NodeStatus.MAINTENANCE), Cause.NOT_ELIGIBLE, "maintenance"),
        (replace(node(), role=(NodeRole.STORAGE,)), Cause.NOT_ELIGIBLE, "no worker"),
        (replace(node(), engines=()), Cause.ENGINE, "it has none"),
        (replace(node(), engines=("triton",)), Cause.ENGINE, "it has triton"),
        (node(free=500), Cause.MEMORY, "nothing fits"),
        (node(gpus=[gpu(error="GPU is lost")]), Cause.DEVICE, "GPU is lost"),
    ],
)
def test_a_refusal_says_what_is_missing(machine: Node, cause: Cause, words: str) -> None:
    found, reason = refused(plan(demand(), [Candidate(machine)]))
    assert found is cause
    assert words in reason


def test_a_refusal_says_what_would_fit() -> None:
    shorter = refused(plan(demand(8_000, LARGE), [Candidate(node(gpus=[gpu(free=12_800)]))]))[1]
    assert "a context of" in shorter
    holder = Claim("dep-big", ModelId("model-b"), 15_000, gpu_devices=("0",), settled_mb=15_000)
    unload = refused(plan(demand(8_000, LARGE), [Candidate(node(gpus=[gpu(free=9_000)]), (holder,))]))[1]
    assert "stopping dep-big (15,000 MB) would make room" in unload
    smaller = refused(plan(demand(30_000, LARGE), [Candidate(node(gpus=[gpu()]))]))[1]
    assert "weights of at most" in smaller


def test_an_image_goes_only_where_a_docker_engine_is_whatever_engines_the_node_has() -> None:
    wish = replace(demand(), image="aiops/custom:1", framework="custom", task="nlp")
    plain, docker = node("plain"), node("docker")
    docker = replace(docker, gauges=replace(docker.gauges, runtimes=Runtimes(("process", "docker"))))
    cause, words = refused(plan(wish, [Candidate(plain)]))
    assert (cause, "no Docker Engine to run image aiops/custom:1" in words) == (Cause.ENGINE, True)
    assert placed(plan(wish, [Candidate(plain), Candidate(docker)])).node_id == docker.node_id


def test_a_gguf_model_goes_where_llama_cpp_is_and_needs_its_weights_and_its_contexts() -> None:
    quantised = replace(LARGE, dtype="float16", family="llama", quantization="Q4_K_M", chat_template=True)
    wish = replace(demand(4_000, quantised), framework="llamacpp")
    cause, words = refused(plan(wish, [Candidate(node())]))
    assert (cause, "no engine for llamacpp" in words) == (Cause.ENGINE, True)
    here = replace(node(free=12_000), engines=("llamacpp",))
    # 32 layers of 8 heads of 128 take 128 KiB a token: 1 GiB for the whole context.
    assert placed(plan(wish, [Candidate(here)])).memory_mb == 4_800 + 1_024 + 300
    four = replace(wish, options=Options(context=2_048, concurrency=8))
    assert placed(plan(four, [Candidate(here)])).memory_mb == 4_800 + 2_048 + 300
    cause, words = refused(plan(wish, [Candidate(replace(here, gauges=replace(here.gauges, ram_free=5_800)))]))
    assert (cause, "a context of" in words) == (Cause.MEMORY, True)
    on_card = replace(node(gpus=[gpu()]), engines=("vllm", "llamacpp"))
    placement = placed(plan(wish, [Candidate(on_card)]))
    assert (placement.engine, placement.gpu_devices) == ("llamacpp", ("0",))


def test_a_port_belongs_to_one_deployment_of_a_node() -> None:
    taken = Candidate(node("a"), (Claim("dep-1", ModelId("model-b"), 100, port=9000),))
    wish = replace(demand(), port=9000)
    cause, reason = refused(plan(wish, [taken]))
    assert (cause, "dep-1" in reason) == (Cause.PORT, True)
    assert placed(plan(wish, [taken, Candidate(node("b", free=3_000))])).node_name == "b"
    assert placed(plan(replace(demand(), port=9001), [taken])).port == 9001


def test_chosen_nodes_and_devices_are_taken_at_their_word() -> None:
    fleet = [Candidate(node("a")), Candidate(node("b", gpus=[gpu("0"), gpu("1")]))]
    assert placed(plan(replace(demand(), node_id=NodeId("node-a")), fleet)).refusals == ()
    assert placed(plan(replace(demand(), gpu_devices=("1",)), fleet)).gpu_devices == ("1",)
    outcome = plan(replace(demand(), gpu_devices=("7",)), fleet)
    assert isinstance(outcome, Refusal)
    assert {refusal.cause for refusal in outcome.refusals} == {Cause.DEVICE}


def test_vllm_serves_on_a_processor_only_where_there_is_room() -> None:
    both = ("vllm", "transformers")
    assert placed(plan(demand(), [Candidate(replace(node(free=5_000), engines=both))])).engine == "transformers"
    assert placed(plan(demand(), [Candidate(replace(node(free=9_000), engines=both))])).engine == "vllm"
    assert refused(plan(demand(), [Candidate(replace(node(free=4_200), engines=("vllm",)))]))[0] is Cause.MEMORY


devices = st.builds(lambda total, share: (total, total * share // 100), st.integers(1_000, 80_000), st.integers(0, 100))


@st.composite
def machines(draw: st.DrawFn) -> Node:
    name = draw(st.text("abc", min_size=3, max_size=3))
    cards = draw(st.lists(devices, max_size=4))
    total, free = draw(devices)
    gpus = [gpu(str(number), free=card[1], total=card[0]) for number, card in enumerate(cards)]
    return node(name, gpus=gpus, free=free, total=total)


fleets = st.lists(machines(), min_size=1, max_size=4, unique_by=lambda each: each.node_id)
demands = st.builds(
    lambda model, weights, architecture, port: replace(
        demand(weights, architecture), model_id=ModelId(model), port=port
    ),
    st.sampled_from(["model-a", "model-b", "model-c"]),
    st.integers(0, 60_000),
    st.sampled_from([TINY, LARGE, None]),
    st.sampled_from([0, 0, 9000, 9001]),
)


@given(fleets, st.lists(demands, max_size=12))
def test_whatever_is_placed_one_after_another_nothing_is_promised_twice(
    fleet: list[Node], wishes: list[Demand]
) -> None:
    claims: dict[NodeId, list[Claim]] = {each.node_id: [] for each in fleet}
    for number, wish in enumerate(wishes):
        candidates = [Candidate(each, tuple(claims[each.node_id])) for each in fleet]
        outcome = plan(wish, candidates)
        assert outcome == plan(wish, candidates)
        shuffled = plan(wish, candidates[::-1])
        if isinstance(outcome, Refusal):
            assert isinstance(shuffled, Refusal)
            assert {each.node_id for each in outcome.refusals} == {each.node_id for each in fleet}
            continue
        assert isinstance(shuffled, Placement)
        assert (shuffled.node_id, shuffled.gpu_devices) == (outcome.node_id, outcome.gpu_devices)
        assert outcome.memory_mb > wish.weights_bytes // MIB
        each_mb = outcome.memory_mb // max(1, len(outcome.gpu_devices))
        claims[outcome.node_id].append(
            Claim(f"dep-{number}", wish.model_id, each_mb, outcome.gpu_devices, outcome.port)
        )
    for machine in fleet:
        _check_within(machine, claims[machine.node_id])


def _check_within(machine: Node, claims: list[Claim]) -> None:
    ports = [claim.port for claim in claims if claim.port]
    assert len(ports) == len(set(ports))
    for device in machine.gauges.gpu_devices:
        held = sum(claim.memory_mb for claim in claims if device.device_id in claim.gpu_devices)
        assert held <= min(device.memory_free, device.memory_total)
    assert sum(claim.memory_mb for claim in claims if not claim.gpu_devices) <= machine.gauges.ram_free
