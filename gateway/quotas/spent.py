"""Those who have nothing left, as the controller tells them, turned into a filter that answers them."""

from collections import defaultdict
from collections.abc import Iterable

from aiops.quotas.v1 import quota_pb2
from aiops.quotas.v1 import quota_service_pb2 as pb
from envoy.extensions.common.matching.v3 import extension_matcher_pb2

from gateway.edge.filters import script
from gateway.edge.limits import by_organisation
from gateway.edge.messages import HTTP, typed

LUA = "envoy.filters.http.lua"


def spent_filter(spent: Iterable[pb.SpentQuota]) -> extension_matcher_pb2.ExtensionWithMatcher:
    """The filter; organisations in which nothing is spent pass it by."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for each in spent:
        found[each.org_id].append(_entry(each))
    return by_organisation({org_id: (LUA, _config(sorted(entries))) for org_id, entries in found.items()})


def _config(entries: list[str]) -> dict[str, object]:
    return typed(HTTP + "lua.v3.Lua", default_source_code=script("spent.lua", f"local SPENT={{{','.join(entries)}}}"))


def _entry(spent: pb.SpentQuota) -> str:
    key = f"{quota_pb2.Quota.Subject.Name(spent.subject)}|{spent.subject_id}|{spent.model}"
    budget = "true" if spent.budget else "false"
    return f'[{_text(key)}]={{["until"]={spent.until:.3f},budget={budget},message={_text(spent.message)}}}'


def _text(text: str) -> str:
    """A string of Lua; what is no printable ASCII goes as bytes."""
    marks = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03d}" for byte in text.encode())
    return f'"{"".join(marks)}"'
