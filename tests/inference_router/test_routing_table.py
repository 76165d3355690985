"""The routing table follows from the instances that may receive traffic, and from nothing else."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_router.routing.model import ModelRoute, RefusedField, Replica, Target, compile_routes


def replica(
    deployment_id: str = "d1",
    *,
    org_id: str = "acme",
    model_name: str = "tiny",
    address: str = "10.0.0.1",
    port: int = 8001,
    epoch: int = 1,
    unsupported_fields: Sequence[RefusedField] = (),
    created: float = 100.0,
) -> Replica:
    return Replica(
        deployment_id=deployment_id,
        instance_id=f"i-{deployment_id}",
        org_id=org_id,
        model_name=model_name,
        node_id=f"n-{deployment_id}",
        address=address,
        port=port,
        epoch=epoch,
        inference_path="/v1/chat/completions",
        unsupported_fields=tuple(unsupported_fields),
        created=created,
    )


def target(deployment_id: str) -> Target:
    return Target(
        deployment_id, f"i-{deployment_id}", f"n-{deployment_id}", "10.0.0.1", 8001, "/v1/chat/completions", weight=1
    )


def test_two_replicas_of_a_model_share_it_equally() -> None:
    routes = compile_routes([replica("d2", created=300.0), replica("d1", created=200.0)])
    assert routes == (ModelRoute("acme", "tiny", (target("d1"), target("d2")), (), 200.0),)


def test_organisations_never_share_a_route() -> None:
    routes = compile_routes([replica("d1", org_id="acme"), replica("d2", org_id="globex")])
    assert [(route.org_id, [each.deployment_id for each in route.targets]) for route in routes] == [
        ("acme", ["d1"]),
        ("globex", ["d2"]),
    ]


def test_a_field_that_any_target_ignores_is_refused_and_a_value_passes_when_all_agree() -> None:
    serial = replica("d1", unsupported_fields=[RefusedField("n", ("1", "null")), RefusedField("logprobs", ("false",))])
    other = replica("d2", unsupported_fields=[RefusedField("n", ("1",))])
    (route,) = compile_routes([serial, other, replica("d3")])
    assert route.refused_fields == (RefusedField("logprobs", ("false",)), RefusedField("n", ("1",)))


def test_of_a_deployment_only_the_newest_epoch_counts() -> None:
    (route,) = compile_routes([replica(epoch=2, address="10.0.0.2"), replica(epoch=1), replica(epoch=1, port=9)])
    assert [each.address for each in route.targets] == ["10.0.0.2"]


@pytest.mark.parametrize(
    "broken",
    [replica(port=0), replica(port=70_000), replica(address=""), replica(org_id=""), replica(model_name="")],
)
def test_what_nothing_can_reach_is_left_out_and_says_why(broken: Replica) -> None:
    assert broken.flaw()
    assert compile_routes([broken]) == ()
    assert len(compile_routes([broken, replica("d2")])) == 1


replicas = st.builds(
    replica,
    st.sampled_from(["d1", "d2", "d3", "d4", "d5"]),
    org_id=st.sampled_from(["acme", "globex"]),
    model_name=st.sampled_from(["tiny", "large"]),
    port=st.integers(0, 3),
    epoch=st.integers(1, 1),
    created=st.integers(1, 3).map(float),
)


@given(st.lists(replicas, unique_by=lambda each: each.deployment_id), st.randoms())
def test_the_order_of_the_replicas_does_not_matter(given_replicas: list[Replica], random: object) -> None:
    shuffled = list(given_replicas)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    routes = compile_routes(given_replicas)
    assert compile_routes(shuffled) == routes
    routed = [each.deployment_id for route in routes for each in route.targets]
    assert sorted(routed) == sorted(each.deployment_id for each in given_replicas if not each.flaw())
