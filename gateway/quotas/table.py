"""Limits of requests as the routing table has them, by period and organisation."""

import logging
from collections import defaultdict
from collections.abc import Iterator

from aiops.quotas.v1 import quota_pb2
from aiops.routing.v1 import routing_service_pb2 as pb

from gateway.edge.limits import DAY, HOUR, MINUTE, Limit, Period
from gateway.models.table import NAME

log = logging.getLogger(__name__)
Limits = dict[Period, dict[str, tuple[Limit, ...]]]


def limits_from_proto(table: pb.QuotaRules) -> Limits:
    """The limits of every period. What Envoy would refuse is left out and logged."""
    found: dict[Period, defaultdict[str, list[Limit]]] = {period: defaultdict(list) for period in (MINUTE, HOUR, DAY)}
    for rule in table.rules:
        if not _is_sound(rule):
            log.error("a quota of organisation %r is left out: it names nobody", rule.org_id)
            continue
        for period, limit in _limits(rule):
            found[period][rule.org_id].append(limit)
    return {period: {org_id: tuple(sorted(own)) for org_id, own in by.items()} for period, by in found.items()}


def _is_sound(rule: pb.QuotaRule) -> bool:
    named = rule.subject and NAME.fullmatch(rule.org_id) and NAME.fullmatch(rule.subject_id)
    return bool(named and (not rule.model or NAME.fullmatch(rule.model)))


def _limits(rule: pb.QuotaRule) -> Iterator[tuple[Period, Limit]]:
    subject = quota_pb2.Quota.Subject.Name(rule.subject)
    amounts = {MINUTE: rule.requests_per_minute, HOUR: rule.requests_per_hour, DAY: rule.requests_per_day}
    for period, requests in amounts.items():
        if requests:
            yield period, Limit(subject, rule.subject_id, rule.model, requests)
