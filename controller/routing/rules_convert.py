"""Rules and decisions as protobuf messages and events, and what is asked back."""

from dataclasses import asdict

from aiops.routing.v1 import route_events_pb2 as events_pb
from aiops.routing.v1 import rules_service_pb2 as pb
from aiops.types.v1 import owner_pb2

from controller.events import Encoding, Encodings
from controller.routing.convert import TOPIC, timestamp
from controller.routing.rules import MEDIUM, Decision, Rule, Rules, RulesChanged, Task
from mesh.clock import unix_ms
from mesh.identity import Caller


def rules_to_proto(rules: Rules) -> pb.RoutingRules:
    """An organisation's rules."""
    return pb.RoutingRules(
        rules=[pb.RoutingRule(**asdict(rule)) for rule in rules.rules],
        default_model=rules.default_model,
        fallback_model=rules.fallback_model,
        owner=owner_pb2.Owner(org_id=rules.org_id, user_id=rules.user_id),
        changed_at=timestamp(rules.changed_at),
        version=rules.version,
    )


def rules_from_proto(request: pb.SetRoutingRulesRequest, caller: Caller) -> Rules:
    """What is wanted."""
    return Rules(
        org_id=caller.org_id,
        user_id=caller.user_id,
        rules=tuple(Rule(rule.task_type, rule.model, rule.complexity) for rule in request.rules),
        default_model=request.default_model,
        fallback_model=request.fallback_model,
    )


def task_from_proto(request: pb.RouteRequest) -> Task:
    """What is asked."""
    return Task(request.task_type, request.complexity or MEDIUM, request.preferred_model, request.max_tokens)


def decision_to_proto(decision: Decision) -> pb.RouteResponse:
    """What was decided, and why."""
    return pb.RouteResponse(
        model=decision.model,
        rule=decision.rule,
        route_id=decision.route.route_id if decision.route else "",
        targets=[
            pb.RoutedTarget(**{**asdict(target), "provider": target.provider.value}) for target in decision.targets
        ],
        considered=[
            pb.ConsideredModel(model=each.model, rule=each.rule, chosen=not each.reason, reason=each.reason)
            for each in decision.considered
        ],
    )


def _changed(event: RulesChanged) -> events_pb.RoutingRulesChanged:
    return events_pb.RoutingRulesChanged(
        type="system.routingRulesChanged",
        org_id=event.rules.org_id,
        version=event.rules.version,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    RulesChanged: Encoding("system.routingRulesChanged", TOPIC, lambda event: str(event.rules.org_id), _changed)
}
