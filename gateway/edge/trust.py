"""Who may come in: token verification and the list of revoked tokens, both exchangeable while Envoy runs."""

import json
from collections.abc import Collection, Iterable

from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2

from gateway.edge.messages import message, typed

PROVIDER = "aiops"
# The same tokens in the header that clients of Anthropic send.
KEY_PROVIDER, API_KEY = "aiops-key", "x-api-key"
INFERENCE = "/v1/"
TOKEN_ID = "x-aiops-token-id"  # noqa: S105 - a header's name
ACTION = "envoy.config.rbac.v3.Action"
INPUT = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"


def token_verification(keys: Iterable[dict[str, str]]) -> config_pb2.JwtAuthentication:
    """The jwt_authn filter with the keys inline. Every route asks for a token unless it says otherwise."""
    provider = {
        "issuer": "aiops",
        "audiences": ["aiops"],
        "require_expiration": True,
        "forward": True,
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "local_jwks": {"inline_string": json.dumps({"keys": list(keys)}, sort_keys=True)},
        "jwt_cache_config": {"jwt_cache_size": 4096},
        "claim_to_headers": [
            {"header_name": "x-aiops-org", "claim_name": "org"},
            {"header_name": TOKEN_ID, "claim_name": "jti"},
            {"header_name": "x-aiops-user", "claim_name": "sub"},
            {"header_name": "x-aiops-token-type", "claim_name": "typ"},
        ],
        "clear_route_cache": True,
    }
    by_key = {**provider, "from_headers": [{"name": API_KEY}]}
    # Of two places only one is looked at: whatever is there, one token says who asks.
    alone = [{"name": API_KEY, "present_match": True}, {"name": "authorization", "present_match": False}]
    content = {
        "providers": {PROVIDER: provider, KEY_PROVIDER: by_key},
        "rules": [
            {"match": {"prefix": INFERENCE, "headers": alone}, "requires": {"provider_name": KEY_PROVIDER}},
            {"match": {"prefix": "/"}, "requires": {"provider_name": PROVIDER}},
        ],
        "bypass_cors_preflight": True,
    }
    return message(config_pb2.JwtAuthentication, content)


def revocations(token_ids: Collection[str]) -> rbac_pb2.RBAC:
    """The RBAC filter that turns revoked tokens away: one look-up, however long the list is."""
    allow = {"action": {"name": "allow", "typed_config": typed(ACTION, name="allow", action="ALLOW")}}
    deny = {"action": {"name": "deny", "typed_config": typed(ACTION, name="revoked", action="DENY")}}
    matcher: dict[str, object] = {"on_no_match": allow}
    if token_ids:
        header = {"name": "token-id", "typed_config": typed(INPUT, header_name=TOKEN_ID)}
        table = {"map": dict.fromkeys(sorted(token_ids), deny)}
        matcher["matcher_tree"] = {"input": header, "exact_match_map": table}
    return message(rbac_pb2.RBAC, {"matcher": matcher})
