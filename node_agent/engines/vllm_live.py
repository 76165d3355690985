"""A running vLLM: its LoRA adapters, which it changes at run time when it was started so, and its own metrics."""

import json
import math
from pathlib import Path

from node_agent.engines.engine import Probe
from node_agent.engines.live import EngineLoad, samples

# An adapter is read from disk and copied to the device before the answer comes.
_LOAD_TIMEOUT_S = 120.0
_TIMEOUT_S = 5.0


class VllmAdapters:
    """Its models are the one it serves and, with a `parent`, the adapters on top of it."""

    def listing(self, origin: str) -> Probe:
        return Probe("GET", f"{origin}/v1/models", timeout_s=_TIMEOUT_S)

    def loaded(self, answer: str) -> frozenset[str]:
        models = json.loads(answer)["data"]
        return frozenset(str(each["id"]) for each in models if each.get("parent"))

    def load(self, origin: str, name: str, directory: Path) -> Probe:
        body = json.dumps({"lora_name": name, "lora_path": str(directory)}).encode()
        return Probe("POST", f"{origin}/v1/load_lora_adapter", body, _LOAD_TIMEOUT_S)

    def unload(self, origin: str, name: str) -> Probe:
        body = json.dumps({"lora_name": name}).encode()
        return Probe("POST", f"{origin}/v1/unload_lora_adapter", body, _TIMEOUT_S)


class VllmGauges:
    """Its page of metrics."""

    def request(self, origin: str) -> Probe:
        return Probe("GET", f"{origin}/metrics", timeout_s=_TIMEOUT_S)

    def load(self, answer: str) -> EngineLoad:
        said = {name: value for name, value in samples(answer).items() if math.isfinite(value)}
        return EngineLoad(
            running_requests=int(said.get("vllm:num_requests_running", 0)),
            waiting_requests=int(said.get("vllm:num_requests_waiting", 0)),
            kv_cache_percent=100 * said.get("vllm:kv_cache_usage_perc", 0.0),
            prompt_tokens=said.get("vllm:prompt_tokens_total", 0.0),
            generated_tokens=said.get("vllm:generation_tokens_total", 0.0),
            requests=said.get("vllm:request_success_total", 0.0),
            first_token_s=said.get("vllm:time_to_first_token_seconds_sum", 0.0),
            first_tokens=said.get("vllm:time_to_first_token_seconds_count", 0.0),
            counts_tokens="vllm:generation_tokens_total" in said,
            counts_requests="vllm:request_success_total" in said,
        )
