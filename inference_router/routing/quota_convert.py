"""Quotas as the controller tells them, as rules; rules to messages of the routing table, and back."""

from collections.abc import Iterable
from dataclasses import asdict

from aiops.quotas.v1 import quota_pb2
from aiops.routing.v1 import routing_service_pb2 as pb

from inference_router.routing.quotas import QuotaRule


def rule_from_quota(message: quota_pb2.Quota) -> QuotaRule:
    """A quota as the controller tells it."""
    limits = message.limits
    return QuotaRule(
        org_id=message.owner.org_id,
        subject=quota_pb2.Quota.Subject.Name(message.subject),
        subject_id=message.subject_id,
        model=message.model,
        requests_per_minute=limits.requests_per_minute,
        requests_per_hour=limits.requests_per_hour,
        requests_per_day=limits.requests_per_day,
    )


def rules_to_proto(rules: Iterable[QuotaRule]) -> pb.QuotaRules:
    """The rules of a table."""
    return pb.QuotaRules(rules=map(_rule_to_proto, rules))


def rule_from_proto(message: pb.QuotaRule) -> QuotaRule:
    """A rule of the table."""
    return QuotaRule(
        org_id=message.org_id,
        subject=quota_pb2.Quota.Subject.Name(message.subject),
        subject_id=message.subject_id,
        model=message.model,
        requests_per_minute=message.requests_per_minute,
        requests_per_hour=message.requests_per_hour,
        requests_per_day=message.requests_per_day,
    )


def _rule_to_proto(rule: QuotaRule) -> pb.QuotaRule:
    return pb.QuotaRule(**{**asdict(rule), "subject": quota_pb2.Quota.Subject.Value(rule.subject)})
