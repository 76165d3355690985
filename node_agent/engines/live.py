"""What a running engine can be told and asked beyond inference: LoRA adapters, and how busy it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from node_agent.engines.engine import Probe


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy an engine is; zero where it does not say.

    `counts_tokens` and `counts_requests`: whether it counts them at all. Tokens, requests and first tokens are counted
    since its start; `first_token_s` is the sum of seconds from requests to their first tokens.
    """

    running_requests: int = 0
    waiting_requests: int = 0
    kv_cache_percent: float = 0.0
    prompt_tokens: float = 0.0
    generated_tokens: float = 0.0
    requests: float = 0.0
    first_token_s: float = 0.0
    first_tokens: float = 0.0
    counts_tokens: bool = False
    counts_requests: bool = False


class Gauges(Protocol):
    """How to ask an engine at `origin` (`http://host:port`) for its load."""

    def request(self, origin: str) -> Probe:
        """The request."""
        ...

    def load(self, answer: str) -> EngineLoad:
        """What the answer says."""
        ...


class Adapters(Protocol):
    """How LoRA adapters are listed, loaded from a directory, and unloaded, by the names that clients call them by."""

    def listing(self, origin: str) -> Probe:
        """The request for what is loaded."""
        ...

    def loaded(self, answer: str) -> frozenset[str]:
        """What is loaded. ValueError for an answer that does not say."""
        ...

    def load(self, origin: str, name: str, directory: Path) -> Probe:
        """The request that loads one."""
        ...

    def unload(self, origin: str, name: str) -> Probe:
        """The request that unloads one."""
        ...


def samples(exposition: str) -> Mapping[str, float]:
    """The samples of a page in Prometheus' text format, summed by name over their labels.

    Source: the exposition format's specification, version 0.0.4. Lines that are no samples are passed over.
    """
    sums: dict[str, float] = {}
    for line in exposition.splitlines():
        if not line or line.startswith("#"):
            continue
        # Labels may hold spaces and braces of their own; the value follows the last brace.
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        words = rest.rpartition("}")[2].split()
        try:
            sums[name.strip()] = sums.get(name.strip(), 0.0) + float(words[0])
        except (IndexError, ValueError):
            continue
    return sums
