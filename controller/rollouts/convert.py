"""Rollouts as protobuf messages and events, and specs back."""

from collections.abc import Sequence
from datetime import timedelta

from aiops.routing.v1 import rollout_pb2 as pb
from aiops.routing.v1 import route_events_pb2 as events_pb
from aiops.types.v1 import owner_pb2

from controller.events import Encoding, Encodings
from controller.rollouts.model import (
    DEFAULT_STEPS,
    Decision,
    Evidence,
    Limits,
    Rollout,
    RolloutChanged,
    Spec,
    Step,
)
from controller.routing.convert import TOPIC, timestamp
from mesh.clock import unix_ms

_HOLD = timedelta(minutes=1)
_USUAL = Limits()


def rollout_to_proto(rollout: Rollout, decisions: Sequence[Decision] = ()) -> pb.Rollout:
    """A rollout, with those of its decisions."""
    return pb.Rollout(
        rollout_id=rollout.rollout_id,
        spec=_spec_to_proto(rollout.spec),
        route_name=rollout.route_name,
        status=pb.Rollout.Status.Value(rollout.status.value),
        status_reason=rollout.reason,
        step=rollout.step,
        weight=rollout.weight,
        weight_since=timestamp(rollout.weight_since),
        decisions=[_decision_to_proto(each) for each in decisions],
        owner=owner_pb2.Owner(org_id=rollout.org_id, user_id=rollout.user_id),
        created_at=timestamp(rollout.created_at),
        changed_at=timestamp(rollout.changed_at),
        ended_at=timestamp(rollout.ended_at),
    )


def spec_from_proto(message: pb.RolloutSpec) -> Spec:
    """What is asked of a rollout; what is not said takes its default."""
    return Spec(
        route=message.route_id,
        candidate=message.candidate,
        stable=message.stable,
        steps=tuple(_step(step) for step in message.steps) or DEFAULT_STEPS,
        limits=_limits(message.limits),
        replica_set=message.replica_set_id,
    )


def _step(message: pb.RolloutStep) -> Step:
    return Step(message.weight, timedelta(milliseconds=message.hold_ms) or _HOLD)


def _limits(message: pb.RolloutLimits) -> Limits:
    return Limits(
        min_requests=message.min_requests or _USUAL.min_requests,
        max_error_percent=message.max_error_percent or _USUAL.max_error_percent,
        max_error_increase_percent=message.max_error_increase_percent or _USUAL.max_error_increase_percent,
        max_latency_ratio=message.max_latency_ratio or _USUAL.max_latency_ratio,
        max_first_token_ratio=message.max_first_token_ratio or _USUAL.max_first_token_ratio,
        latency_slack_ms=message.latency_slack_ms or _USUAL.latency_slack_ms,
        window=timedelta(milliseconds=message.window_ms) or _USUAL.window,
        silence=timedelta(milliseconds=message.silence_ms) or _USUAL.silence,
    )


def _spec_to_proto(spec: Spec) -> pb.RolloutSpec:
    limits = spec.limits
    return pb.RolloutSpec(
        route_id=spec.route,
        stable=spec.stable,
        candidate=spec.candidate,
        steps=[pb.RolloutStep(weight=step.weight, hold_ms=_milliseconds(step.hold)) for step in spec.steps],
        limits=pb.RolloutLimits(
            min_requests=limits.min_requests,
            max_error_percent=limits.max_error_percent,
            max_error_increase_percent=limits.max_error_increase_percent,
            max_latency_ratio=limits.max_latency_ratio,
            max_first_token_ratio=limits.max_first_token_ratio,
            latency_slack_ms=limits.latency_slack_ms,
            window_ms=_milliseconds(limits.window),
            silence_ms=_milliseconds(limits.silence),
        ),
        replica_set_id=spec.replica_set,
    )


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


def _decision_to_proto(decision: Decision) -> pb.RolloutDecision:
    return pb.RolloutDecision(
        at=timestamp(decision.at),
        action=pb.RolloutDecision.Action.Value(decision.action.value),
        weight=decision.weight,
        reason=decision.reason,
        stable=_evidence_to_proto(decision.sight.stable),
        candidate=_evidence_to_proto(decision.sight.candidate),
    )


def _evidence_to_proto(seen: Evidence) -> pb.RolloutEvidence:
    return pb.RolloutEvidence(
        requests=seen.requests,
        failed=seen.failed,
        p50_ms=seen.p50_ms,
        p95_ms=seen.p95_ms,
        streams=seen.streams,
        first_token_p95_ms=seen.first_token_p95_ms,
        last_at=timestamp(seen.last_at),
        live=seen.live,
    )


def _changed(event: RolloutChanged) -> events_pb.RolloutChanged:
    return events_pb.RolloutChanged(
        type="system.rolloutChanged",
        rollout_id=event.rollout.rollout_id,
        rollout=rollout_to_proto(event.rollout, [event.decision]),
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    RolloutChanged: Encoding("system.rolloutChanged", TOPIC, lambda event: str(event.rollout.rollout_id), _changed),
}
