"""A running Triton: its own statistics, which it answers where it answers inferences."""

import json
from urllib.parse import urlsplit

from node_agent.engines.engine import Probe
from node_agent.engines.live import EngineLoad

_TIMEOUT_S = 5.0


class TritonGauges:
    """Its statistics extension.

    Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
    """

    def request(self, origin: str) -> Probe:
        return Probe("GET", f"http://{urlsplit(origin).netloc}/v2/models/stats", timeout_s=_TIMEOUT_S)

    def load(self, answer: str) -> EngineLoad:
        try:
            said = [each["inference_stats"] for each in json.loads(answer)["model_stats"]]
            requests = sum(each[kind]["count"] for each in said for kind in ("success", "fail"))
            return EngineLoad(requests=requests, counts_requests=True)
        except (ValueError, LookupError, TypeError):
            return EngineLoad()
