"""How the edge holds requests to their quotas: buckets inside Envoy, one for each subject and window of time.

A bucket's descriptor ends with the window, so that the next minute, hour or day has a full one by itself, whoever is
away. Only organisations that have quotas are looked at further than by their name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from envoy.extensions.common.matching.v3 import extension_matcher_pb2

from gateway.edge.messages import HTTP, PREFIX, message, typed

MATCHER = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
INPUT = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
DESCRIPTOR = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor"
COMPOSITE = HTTP + "composite.v3."
ORG = "x-aiops-org"
SPENT = "aiops.spent"
# The subjects that requests count for, and the headers that the verified token makes.
SUBJECTS = {"api_key": "x-aiops-token-id", "user": "x-aiops-user", "organization": ORG}
# What a route says of itself, where buckets, the access log and scripts, which look nowhere else, read it.
ROUTE = "envoy.filters.http.lua"
NAME = "model"
# Whether streams are to be asked for their counts.
STREAM_USAGE = "stream_usage"
# Buckets of one subject that are kept: requests may belong to the window that has just ended.
WINDOWS_KEPT = 4
ENDLESS = {"max_tokens": 2**32 - 1, "tokens_per_fill": 2**32 - 1, "fill_interval": "1s"}
ALWAYS = {"default_value": {"numerator": 100}}


@dataclass(frozen=True, slots=True)
class Period:
    """A window of time that begins anew with the clock, in UTC; the last two members are CEL over a request."""

    name: str
    filter: str
    seconds: int
    # Which window it is: a number that is another one for each.
    number: str
    # The seconds until the next one begins.
    left: str


_SECOND, _MINUTE, _HOUR = "request.time.getSeconds()", "request.time.getMinutes()", "request.time.getHours()"
_DAY = "(request.time.getFullYear() * 366 + request.time.getDayOfYear())"
_OF_THE_HOUR = f"({_MINUTE} * 60 + {_SECOND})"
MINUTE = Period("minute", "aiops.quotas.minute", 60, f"({_DAY} * 24 + {_HOUR}) * 60 + {_MINUTE}", f"60 - {_SECOND}")
HOUR = Period("hour", "aiops.quotas.hour", 3600, f"{_DAY} * 24 + {_HOUR}", f"3600 - {_OF_THE_HOUR}")
DAY = Period("day", "aiops.quotas.day", 86400, _DAY, f"86400 - ({_HOUR} * 3600 + {_OF_THE_HOUR})")
# The shortest first: what it refuses does not count in the others.
PERIODS = (MINUTE, HOUR, DAY)
LIMITS = (SPENT, *(period.filter for period in PERIODS))


@dataclass(frozen=True, slots=True, order=True)
class Limit:
    """So many requests of one subject in a window; for one model, or for all together."""

    subject: str
    subject_id: str
    model: str
    requests: int


def buckets(period: Period, limits: Mapping[str, Iterable[Limit]]) -> extension_matcher_pb2.ExtensionWithMatcher:
    """The filter that lets in what the limits, by organisation, allow in a period."""
    return by_organisation(
        {
            org_id: ("envoy.filters.http.local_ratelimit", _buckets(period, sorted(set(own))))
            for org_id, own in limits.items()
        }
    )


def by_organisation(filters: Mapping[str, tuple[str, dict[str, object]]]) -> extension_matcher_pb2.ExtensionWithMatcher:
    """A filter of its own, by name and configuration, for each of some organisations, and none for all others."""
    # Envoy takes no empty map; no organisation is called so.
    chosen = {org_id: _run(*filters[org_id]) for org_id in sorted(filters)} or {"-": {"action": _skip()}}
    header = {"name": "organisation", "typed_config": typed(INPUT, header_name=ORG)}
    composite = {"name": "envoy.filters.http.composite", "typed_config": typed(COMPOSITE + "Composite")}
    content: dict[str, object] = {
        "extension_config": composite,
        "xds_matcher": {"matcher_tree": {"input": header, "exact_match_map": {"map": chosen}}},
    }
    return message(extension_matcher_pb2.ExtensionWithMatcher, content)


def _run(name: str, config: dict[str, object]) -> dict[str, object]:
    action = typed(COMPOSITE + "ExecuteFilterAction", typed_config={"name": name, "typed_config": config})
    return {"action": {"name": "run", "typed_config": action}}


def _skip() -> dict[str, object]:
    return {"name": "skip", "typed_config": typed("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")}


def _buckets(period: Period, limits: list[Limit]) -> dict[str, object]:
    # One token comes back in a whole window, so none does before it ends.
    fill: dict[str, object] = {"tokens_per_fill": 1, "fill_interval": f"{period.seconds}s"}
    shapes = sorted({(limit.subject, bool(limit.model)) for limit in limits})
    return typed(
        HTTP + "local_ratelimit.v3.LocalRateLimit",
        stat_prefix=f"quotas_{period.name}",
        token_bucket=ENDLESS,
        always_consume_default_token_bucket=False,
        max_dynamic_descriptors=WINDOWS_KEPT,
        filter_enabled=ALWAYS,
        filter_enforced=ALWAYS,
        response_headers_to_add=[
            _header("retry-after", f"%CEL({period.left})%"),
            _header("x-ratelimit-window", period.name),
        ],
        rate_limits=[{"actions": list(_actions(*shape, period))} for shape in shapes],
        descriptors=[
            {"entries": list(_entries(limit)), "token_bucket": fill | {"max_tokens": limit.requests}}
            for limit in limits
        ],
    )


def _actions(subject: str, by_model: bool, period: Period) -> Iterable[dict[str, object]]:
    yield {"request_headers": {"header_name": SUBJECTS[subject], "descriptor_key": subject}}
    if by_model:
        place = {"key": ROUTE, "path": [{"key": NAME}]}
        yield {"metadata": {"descriptor_key": "model", "metadata_key": place, "source": "ROUTE_ENTRY"}}
    number = typed(DESCRIPTOR, descriptor_key="window", text=period.number)
    yield {"extension": {"name": "envoy.rate_limit_descriptors.expr", "typed_config": number}}


def _entries(limit: Limit) -> Iterable[dict[str, str]]:
    yield {"key": limit.subject, "value": limit.subject_id}
    if limit.model:
        yield {"key": "model", "value": limit.model}
    # Any window; each has a bucket of its own.
    yield {"key": "window", "value": ""}


def _header(name: str, value: str) -> dict[str, object]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def discovered() -> list[dict[str, object]]:
    """The filters in the chain. Who has spent everything is told so first, and nothing is counted for that."""
    return [_discovered(name) for name in LIMITS]


def _discovered(name: str) -> dict[str, object]:
    source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "name": name,
        "disabled": True,
        "config_discovery": {"config_source": source, "type_urls": [PREFIX + MATCHER]},
    }
