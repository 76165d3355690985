"""Targets outside, from the route that an organisation asks for to the table that the gateway renders."""

from typing import Any

import pytest
from aiops.routing.v1 import route_pb2
from aiops.routing.v1.route_pb2 import RouteTarget as Target

from inference_router.routing.policy import External
from inference_router.routing.policy_convert import policy_from_proto, policy_from_route, policy_to_proto


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"provider": Target.openai}, External("https://api.openai.com/v1", stream_usage=True)),
        (
            {"provider": Target.anthropic, "credential_id": "c"},
            External("https://api.anthropic.com/v1", "c", credential_header="x-api-key", messages=True),
        ),
        (
            {"provider": Target.anthropic, "base_url": "https://a.example", "credential_header": "authorization"},
            External("https://a.example", credential_header="authorization", messages=True),
        ),
        (
            {"provider": Target.openai_compatible, "base_url": "https://b.example", "credential_header": "api-key"},
            External("https://b.example", credential_header="api-key"),
        ),
        (
            {"provider": Target.openai_compatible, "base_url": "https://c.example", "stream_usage": True},
            External("https://c.example", stream_usage=True),
        ),
    ],
)
def test_a_provider_says_what_it_speaks_and_where_its_credential_goes(
    asked: dict[str, Any], expected: External
) -> None:
    target = Target(name="far", model="m", weight=1, **asked)
    policy = policy_from_route(route_pb2.Route(route_id="r", name="far", targets=[target]))
    assert policy.targets[0].external == expected
    assert policy_from_proto(policy_to_proto(policy)) == policy
