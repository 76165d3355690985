"""Which model a task is for: preference, rules, default, fallback in turn, passing over what cannot answer."""

from typing import Any

import pytest
from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import route_service_pb2 as routes_pb
from aiops.routing.v1 import rules_service_pb2 as pb

from controller.deployments.workload import WorkloadState
from controller.routing.model import Capability, Route, RouteId, Target, Wish
from controller.routing.rules import Catalogue, NoRouteError, Rule, Rules, Task, decide
from mesh.identity import OrgId, UserId
from tests.fakes.clock import ManualClock
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, STRANGER, Rooms

ORG = OrgId("org-a")
RULES = Rules(
    ORG,
    rules=(Rule("chat", "small"), Rule("chat", "large", "high"), Rule("summarization", "gone")),
    default_model="small",
    fallback_model="last",
)


def route(name: str, *targets: Target, **fields: Any) -> Route:
    now = ManualClock().now()
    return Route(RouteId(f"route-{name}"), ORG, UserId("u"), now, now, Wish(name, targets=targets, **fields))


def catalogue(*routes: Route, live: tuple[str, ...] = ("small", "large", "last")) -> Catalogue:
    named = {name: each for each in routes for name in each.wish.names}
    return Catalogue(ORG, named, {(ORG, name): [f"d-{name}"] for name in live})


@pytest.mark.parametrize(
    ("task", "model", "rule"),
    [
        (Task("chat", preferred_model="last"), "last", "preferred_model"),
        (Task("chat"), "small", "task_type"),
        (Task("chat", "high"), "large", "task_type"),
        (Task("chat", "low"), "small", "task_type"),
        (Task("translation"), "small", "default_model"),
        (Task(), "small", "default_model"),
        (Task("chat", preferred_model="unheard-of"), "small", "task_type"),
        (Task("summarization"), "small", "default_model"),
    ],
)
def test_preference_stands_before_the_task_and_the_task_before_the_default(task: Task, model: str, rule: str) -> None:
    decision = decide(task, RULES, catalogue())
    assert (decision.model, decision.rule) == (model, rule)


def test_the_fallback_comes_last_and_every_step_before_it_says_why() -> None:
    decision = decide(Task("chat", "high", "wished"), RULES, catalogue(live=("last",)))
    assert (decision.model, decision.rule) == ("last", "fallback_model")
    assert [(each.model, each.rule, bool(each.reason)) for each in decision.considered] == [
        ("wished", "preferred_model", True),
        ("large", "task_type", True),
        ("small", "task_type", True),
        ("small", "default_model", True),
        ("last", "fallback_model", False),
    ]


def test_with_nothing_left_the_refusal_names_everything() -> None:
    with pytest.raises(NoRouteError, match=r"small \(task_type\).*last \(fallback_model\)"):
        decide(Task("chat"), RULES, catalogue(live=()))


def test_a_route_that_is_for_other_tasks_or_too_short_is_passed_over() -> None:
    small = route("small", Target("t", "large", weight=1), capabilities=(Capability.EMBEDDING,))
    assert decide(Task("chat"), RULES, catalogue(small)).model == "last"
    short = route("small", Target("t", "large", weight=1), max_tokens=100)
    assert decide(Task("chat", max_tokens=101), RULES, catalogue(short)).model == "last"
    assert decide(Task("chat", max_tokens=100), RULES, catalogue(short)).model == "small"


def test_the_targets_are_told_with_the_shares_that_they_get() -> None:
    three = (Target("a", "large", weight=3), Target("b", "gone", weight=9), Target("c", "last", weight=1))
    spare = Target("d", "last"), Target("e", "last")
    small = route("small", *three, *spare, fallbacks=("b", "d"))
    told = decide(Task("chat"), RULES, catalogue(small)).targets
    assert [(each.name, each.share_percent, each.fallback, each.instances, bool(each.skipped)) for each in told] == [
        ("a", 75.0, 0, 1, False),
        ("b", 0.0, 0, 0, True),
        ("c", 25.0, 0, 1, False),
        ("d", 0.0, 1, 1, False),
        ("e", 0.0, 0, 1, True),
    ]


async def test_rules_are_kept_by_version_and_decide_with_what_is_live(rooms: Rooms) -> None:
    await rooms.join("node")
    await rooms.import_model("tiny")
    await rooms.report(await rooms.deploy("tiny"), state=WorkloadState.RUNNING, port=9000)
    wish = routes_pb.RouteWish(name="fast", targets=[route_pb2.RouteTarget(model="tiny", weight=1)])
    await rooms.routes.CreateRoute(routes_pb.CreateRouteRequest(route=wish), metadata=EDITOR)
    asked = pb.RouteRequest(task_type="chat")
    assert (await refusal(rooms.rules.Route(asked, metadata=EDITOR))).reason == "NO_ROUTE"
    empty = (await rooms.rules.GetRoutingRules(pb.GetRoutingRulesRequest(), metadata=EDITOR)).rules
    assert (empty.version, list(empty.rules)) == (0, [])
    wanted = pb.SetRoutingRulesRequest(rules=[pb.RoutingRule(task_type="chat", model="fast")], default_model="tiny")
    first = (await rooms.rules.SetRoutingRules(wanted, metadata=EDITOR)).rules
    assert first.version == 1
    decision = await rooms.rules.Route(asked, metadata=EDITOR)
    assert (decision.model, decision.rule, decision.targets[0].instances) == ("fast", "task_type", 1)
    assert (await rooms.rules.Route(pb.RouteRequest(), metadata=EDITOR)).model == "tiny"
    assert (await refusal(rooms.rules.Route(asked, metadata=STRANGER))).reason == "NO_ROUTE"
    wanted.version = 7
    assert (await refusal(rooms.rules.SetRoutingRules(wanted, metadata=EDITOR))).reason == "ROUTING_RULES_CHANGED"
    twice = pb.SetRoutingRulesRequest(rules=[pb.RoutingRule(task_type="chat", model="a")] * 2)
    error = await refusal(rooms.rules.SetRoutingRules(twice, metadata=EDITOR))
    assert error.violations[0].field == "rules[1]"
    assert [each["version"] for each in await rooms.events("system.routingRulesChanged")] == [1]
