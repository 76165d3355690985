"""Who follows changes ends with what the whole table says, at every hop."""

from collections.abc import Sequence
from typing import Any

from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import routing_service_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.followed import Followed
from inference_router.routing.convert import TableMessages
from inference_router.routing.model import Replica
from inference_router.routing.policy import PolicyRoute, PolicyTarget
from inference_router.routing.table import Compiler
from inference_router.routing.told import Told
from tests.inference_router.test_routing_table import replica

NAMES = st.sampled_from(["a", "b", "c"])
replicas = st.lists(
    st.builds(
        lambda number, model, port, epoch: replica(f"d{number}", model_name=model, port=port, epoch=epoch),
        st.integers(0, 4),
        NAMES,
        st.sampled_from([0, 8001, 8002]),
        st.integers(1, 2),
    ),
    max_size=5,
)
policies = st.lists(
    st.builds(
        lambda number, model, names: PolicyRoute(
            f"r{number}", "acme", False, tuple(names), (PolicyTarget(model, 1, model),), (), 1.0
        ),
        st.integers(0, 2),
        NAMES,
        st.lists(st.sampled_from(["x", "y"]), max_size=2),
    ),
    max_size=3,
    unique_by=lambda each: each.route_id,
)


@given(st.lists(st.tuples(replicas, policies), min_size=1, max_size=5))
def test_changes_of_the_table_add_up_to_the_table(
    states: list[tuple[Sequence[Replica], Sequence[PolicyRoute]]],
) -> None:
    compiler, messages, followed = Compiler(), TableMessages(), Followed()
    for version, (running, wanted) in enumerate(states, 1):
        table = compiler.compile(version, running, wanted)
        followed.take(
            messages.change(table) if version > 1 else pb.WatchRoutingTableResponse(table=messages.whole(table))
        )
        whole = Followed()
        whole.take(pb.WatchRoutingTableResponse(table=TableMessages().whole(table)))
        assert (followed.models, followed.policies) == (whole.models, whole.policies)


def test_what_the_controller_tells_adds_up_and_begins_anew_with_everything() -> None:
    told = Told()

    def take(*ids: str, routes: Sequence[str] = (), **more: Any) -> tuple[list[str], list[str]]:
        found = [deployments_pb.Replica(deployment_id=each, model_name=each) for each in ids]
        wanted = [route_pb2.Route(route_id=each, name=each) for each in routes]
        told.take(deployments_pb.WatchReplicasResponse(replicas=found, routes=wanted, **more))
        return sorted(each.deployment_id for each in told.replicas), sorted(each.route_id for each in told.routes)

    assert take("a", "b", "b", routes=["r"]) == (["a", "b", "b"], ["r"])
    assert take("b", "c", routes=["s"], partial=True) == (["a", "b", "c"], ["r", "s"])
    assert take(partial=True, gone_deployment_ids=["a"], gone_route_ids=["r"]) == (["b", "c"], ["s"])
    assert take("d") == (["d"], [])
