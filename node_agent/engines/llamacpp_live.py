"""A running llama-server: its own metrics. Its adapters are chosen when it starts, not while it runs."""

import math

from node_agent.engines.engine import Probe
from node_agent.engines.live import EngineLoad, samples

_TIMEOUT_S = 5.0


class LlamaCppGauges:
    """Its page of metrics, which tells no requests that ended, no first tokens, and not how full its cache is."""

    def request(self, origin: str) -> Probe:
        return Probe("GET", f"{origin}/metrics", timeout_s=_TIMEOUT_S)

    def load(self, answer: str) -> EngineLoad:
        said = {name: value for name, value in samples(answer).items() if math.isfinite(value)}
        return EngineLoad(
            running_requests=int(said.get("llamacpp:requests_processing", 0)),
            waiting_requests=int(said.get("llamacpp:requests_deferred", 0)),
            # What it found in its cache is part of the prompt as well.
            prompt_tokens=said.get("llamacpp:prompt_tokens_total", 0.0)
            + said.get("llamacpp:prompt_tokens_cached_total", 0.0),
            generated_tokens=said.get("llamacpp:tokens_predicted_total", 0.0),
            counts_tokens="llamacpp:tokens_predicted_total" in said,
        )
