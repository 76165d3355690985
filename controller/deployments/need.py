"""How much memory an engine needs to serve a model: weights, the KV cache of one whole context, and the engine itself.

One context is enough for engines that answer one request at a time, and vLLM pages its cache, so that many shorter
requests share the room of a long one; it does not start with less.
"""

from dataclasses import dataclass

from controller.models.memory import CUDA_CONTEXT_MB, kv_bytes_per_token, weights_mb
from controller.models.model import MIB, Architecture, megabytes

CPU = 0
# What an engine holds before the first weight. Measured on a processor: transformers serve 443 MB with a tiny model,
# vLLM 2.9 to 4.4 GB; on a GPU it is the CUDA context, activations and captured graphs.
_RUNTIME_CPU_MB = {"transformers": 600, "vllm": 4_000}
_RUNTIME_GPU_MB = {"transformers": CUDA_CONTEXT_MB + 400, "vllm": CUDA_CONTEXT_MB + 1_600}
_UNKNOWN_RUNTIME_MB = 2_000
_SMALLEST_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class Need:
    """Megabytes of each part; the engine's own share is needed on every device, the others are split."""

    weights_mb: int
    cache_mb: int
    runtime_mb: int
    bytes_per_token: int

    def per_device_mb(self, devices: int) -> int:
        """What each of so many devices must have free; 0 devices are the processor's RAM."""
        return -(-(self.weights_mb + self.cache_mb) // max(1, devices)) + self.runtime_mb

    def total_mb(self, devices: int) -> int:
        """What is claimed over all devices."""
        return self.per_device_mb(devices) * max(1, devices)

    def context_within(self, available_mb: int, devices: int) -> int:
        """The longest context that would fit, in steps of 256 tokens; 0 when not even the shortest does."""
        if not self.bytes_per_token:
            return 0
        room = (available_mb - self.runtime_mb) * max(1, devices) - self.weights_mb
        tokens = max(0, room) * MIB // self.bytes_per_token
        return tokens // _SMALLEST_CONTEXT * _SMALLEST_CONTEXT

    def weights_within(self, available_mb: int, devices: int) -> int:
        """Megabytes of weights that would fit with the same context."""
        room = (available_mb - self.runtime_mb) * max(1, devices) - self.cache_mb
        return max(0, room * 5 // 6)

    def __str__(self) -> str:
        return f"weights {self.weights_mb:,}, KV cache {self.cache_mb:,}, engine {self.runtime_mb:,}"


def need_of(weights_bytes: int, architecture: Architecture | None, engine: str, *, gpu: bool) -> Need | None:
    """The need of a model under an engine; None when it cannot be known, which must never pass for nothing.

    Engines that keep no KV cache need none.
    """
    runtime = (_RUNTIME_GPU_MB if gpu else _RUNTIME_CPU_MB).get(engine, _UNKNOWN_RUNTIME_MB)
    if weights_bytes <= 0:
        return None
    if engine not in ("vllm", "transformers"):
        return Need(weights_mb(weights_bytes), 0, runtime, 0)
    if architecture is None:
        return None
    per_token = kv_bytes_per_token(architecture)
    return Need(weights_mb(weights_bytes), megabytes(per_token * architecture.context), runtime, per_token)
