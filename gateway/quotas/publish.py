"""Gives Envoys the limits of requests, and those who have nothing left."""

from collections.abc import Mapping

from aiops.quotas.v1 import quota_service_pb2 as pb
from envoy.config.core.v3 import extension_pb2
from google.protobuf.message import Message

from gateway.edge.limits import PERIODS, SPENT, buckets, by_organisation
from gateway.edge.messages import packed
from gateway.quotas.spent import spent_filter
from gateway.quotas.table import Limits
from gateway.xds.cache import FILTERS, Cache, Resource, resource


def publish_none(cache: Cache) -> None:
    """Lets Envoys that have nothing yet start without limits, which come with the models; whoever has some keeps them.

    Who has nothing left is waited for, as the keys of tokens are.
    """
    nothing = by_organisation({})
    cache.put(FILTERS, {each.filter: _filter(each.filter, nothing, provisional=True) for each in PERIODS})


def publish_limits(cache: Cache, limits: Limits) -> None:
    """Publishes the limits. Buckets of a period begin anew when something of that period changed."""
    rendered = {period.filter: _filter(period.filter, buckets(period, limits.get(period, {}))) for period in PERIODS}
    known = cache.of(FILTERS)
    changed = {name: made for name, made in rendered.items() if _version(known, name) != (made.version, False)}
    if changed:
        cache.put(FILTERS, changed)


def publish_spent(cache: Cache, state: pb.WatchSpentQuotasResponse) -> None:
    """Publishes those who have nothing left."""
    cache.put(FILTERS, {SPENT: _filter(SPENT, spent_filter(state.spent))})


def _version(known: Mapping[str, Resource], name: str) -> tuple[str, bool] | None:
    before = known.get(name)
    return (before.version, before.provisional) if before else None


def _filter(name: str, config: Message, *, provisional: bool = False) -> Resource:
    built = extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))
    return resource(built, provisional=provisional)
