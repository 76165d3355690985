"""The pages of the gateway: the contract as OpenAPI, and a page to read it with. Envoy answers them by itself."""

from importlib import resources
from pathlib import Path

from aiops.policy.v1 import policy_pb2

from gateway.edge.routes import OPEN, direct

# Written beside the generated code by `make gen`.
OPENAPI = Path(policy_pb2.__file__).parents[2] / "openapi.json"


def pages() -> list[dict[str, object]]:
    """Routes of the pages."""
    docs = (resources.files("gateway.web") / "docs.html").read_text()
    return [
        _page("/openapi.json", OPENAPI.read_text(), "application/json"),
        _page("/docs", docs, "text/html; charset=utf-8"),
    ]


def _page(path: str, body: str, content_type: str) -> dict[str, object]:
    return direct({"path": path}, 200, body, content_type, typed_per_filter_config=OPEN)
