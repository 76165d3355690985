"""Routes by policy for tests of the gateway, with engines as their targets."""

from typing import Any

from aiops.routing.v1 import route_pb2
from aiops.routing.v1 import routing_service_pb2 as routing

from tests.fakes.engine_http import Engine

DEFAULTS: dict[str, Any] = {
    "max_attempts": 3,
    "base_delay_ms": 10,
    "max_delay_ms": 100,
    "retry_budget_percent": 20,
    "retry_statuses": [429, 502, 503, 504],
    "failure_threshold": 5,
    "recovery_timeout_ms": 30_000,
    "max_requests": 4096,
}


def target(*engines: Engine, model: str = "", weight: int = 0, name: str = "") -> routing.PolicyTarget:
    """A target that the engines answer for; without a name it is called as the first of them."""
    instances = [
        routing.Target(
            deployment_id=engine.name, instance_id=engine.name, node_id="n", address="127.0.0.1", port=engine.port,
            inference_path="/v1/chat/completions", weight=1,
        )
        for engine in engines
    ]  # fmt: skip
    called = name or engines[0].name
    return routing.PolicyTarget(name=called, weight=weight, model=model or f"{called}-model", instances=instances)


def outside(
    port: int,
    *,
    name: str = "outside",
    model: str = "far",
    weight: int = 1,
    tls: bool = False,
    ca_pem: str = "",
    credential_id: str = "",
    **more: Any,
) -> routing.PolicyTarget:
    """A provider at a port of the loopback; `more` are fields of External."""
    base_url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/proxy/v1"
    external = routing.External(base_url=base_url, ca_pem=ca_pem, credential_id=credential_id, **more)
    return routing.PolicyTarget(name=name, weight=weight, model=model, external=external)


def policy(
    names: str, *targets: routing.PolicyTarget, fallbacks: str = "", org: str = "org-one", **fields: Any
) -> routing.PolicyRoute:
    """A route; `names` and `fallbacks` are separated by spaces, `fields` are those of Resilience or of the route."""
    known = route_pb2.Resilience.DESCRIPTOR.fields_by_name
    resilience = DEFAULTS | {name: value for name, value in fields.items() if name in known}
    rest = {name: value for name, value in fields.items() if name not in known}
    return routing.PolicyRoute(
        route_id=f"route-{names.split(maxsplit=1)[0]}", org_id=org, names=names.split(), targets=targets,
        fallbacks=fallbacks.split(), resilience=route_pb2.Resilience(**resilience), created=1_700_000_000, **rest,
    )  # fmt: skip
