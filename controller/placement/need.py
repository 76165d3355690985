"""How much memory an engine needs to serve a model: weights, the KV cache of what is served at once, the engine itself.

One whole context is enough where nothing else is asked: some engines answer one request at a time, and vLLM pages its
cache, so that many shorter requests share the room of a long one; it does not start with less.
"""

from dataclasses import dataclass

from controller.models.memory import CUDA_CONTEXT_MB, kv_bytes_per_token, weights_mb
from controller.models.model import MIB, Architecture, megabytes
from controller.placement.model import Demand, Peak, PeakKey

CPU = 0
# What an engine holds before the first weight. Measured on a processor: transformers serve 443 MB with a tiny model,
# Triton with a tiny graph 115 MB, vLLM 2.9 to 4.4 GB, llama.cpp 45 MB besides the buffers of a batch; on a GPU it is
# the CUDA context, activations and captured graphs.
_RUNTIME_CPU_MB = {"llamacpp": 300, "transformers": 600, "triton": 300, "vllm": 4_000}
_RUNTIME_GPU_MB = {
    "llamacpp": CUDA_CONTEXT_MB + 400,
    "transformers": CUDA_CONTEXT_MB + 400,
    "triton": CUDA_CONTEXT_MB + 300,
    "vllm": CUDA_CONTEXT_MB + 1_600,
}
_UNKNOWN_RUNTIME_MB = 2_000
_SMALLEST_CONTEXT = 256
_SIZES = (1, 2, 4, 8)
# A measured peak raises a need at once; it lowers one only after so many looks, some ten minutes of heartbeats, for an
# engine that nobody asked anything yet holds less than it will.
TRUSTED_SAMPLES = 120


@dataclass(frozen=True, slots=True)
class Need:
    """Megabytes of each part; the engine's own share is needed on every device, the others are split.

    The cache is split over at most `kv_heads` devices: beyond that each keeps a copy of a head. `peaks` are what was
    measured in this very shape, by the number of devices. `context` and `concurrency` are those that the cache is for.
    """

    weights_mb: int
    cache_mb: int
    runtime_mb: int
    bytes_per_token: int
    context: int = 0
    concurrency: int = 1
    kv_heads: int = 1
    peaks: tuple[tuple[int, Peak], ...] = ()

    def per_device_mb(self, devices: int) -> int:
        """What each of so many devices must have free; 0 devices are the processor's RAM."""
        shared = -(-self.weights_mb // max(1, devices)) + -(-self.cache_mb // self._shares(devices))
        estimate = shared + self.runtime_mb
        for shape, peak in self.peaks:
            if shape == devices:
                measured = peak.mb * 11 // 10
                return measured if peak.samples >= TRUSTED_SAMPLES else max(estimate, measured)
        return estimate

    def total_mb(self, devices: int) -> int:
        """What is claimed over all devices."""
        return self.per_device_mb(devices) * max(1, devices)

    def context_within(self, available_mb: int, devices: int) -> int:
        """The longest context that would fit, in steps of 256 tokens; 0 when not even the shortest does."""
        if not self.bytes_per_token:
            return 0
        room = available_mb - self.runtime_mb - -(-self.weights_mb // max(1, devices))
        tokens = max(0, room) * self._shares(devices) * MIB // (self.bytes_per_token * self.concurrency)
        return min(tokens // _SMALLEST_CONTEXT * _SMALLEST_CONTEXT, self.context)

    def concurrency_within(self, available_mb: int, devices: int) -> int:
        """How many whole contexts would fit."""
        if not self.bytes_per_token or not self.context:
            return 0
        room = available_mb - self.runtime_mb - -(-self.weights_mb // max(1, devices))
        return max(0, room) * self._shares(devices) * MIB // (self.bytes_per_token * self.context)

    def weights_within(self, available_mb: int, devices: int) -> int:
        """Megabytes of weights that would fit with the same context."""
        room = available_mb - self.runtime_mb - -(-self.cache_mb // self._shares(devices))
        return max(0, room * max(1, devices) * 5 // 6)

    def _shares(self, devices: int) -> int:
        return max(1, min(devices, self.kv_heads))

    def __str__(self) -> str:
        measured = "; measured before" if self.peaks else ""
        return f"weights {self.weights_mb:,}, KV cache {self.cache_mb:,}, engine {self.runtime_mb:,}{measured}"


def need_of(demand: Demand, engine: str, *, gpu: bool) -> Need | None:
    """The need of what is demanded under an engine; None when it cannot be known, which must never pass for nothing.

    Engines that keep no KV cache need none.
    """
    runtime = (_RUNTIME_GPU_MB if gpu else _RUNTIME_CPU_MB).get(engine, _UNKNOWN_RUNTIME_MB)
    if demand.weights_bytes <= 0:
        return None
    weights, peaks = weights_mb(demand.weights_bytes), _peaks(demand, engine, gpu=gpu)
    if engine not in ("vllm", "transformers", "llamacpp"):
        return Need(weights, 0, runtime, 0, peaks=peaks)
    architecture = demand.architecture
    if architecture is None:
        return None
    per_token = kv_bytes_per_token(architecture)
    context, concurrency = demand.options.context or architecture.context, max(1, demand.options.concurrency)
    cache = megabytes(per_token * context * concurrency)
    return Need(weights, cache, runtime, per_token, context, concurrency, architecture.kv_heads, peaks)


def parallel_sizes(demand: Demand) -> tuple[int, ...]:
    """How many cards may share the model, the fewest first: those asked for, or numbers that divide its heads.

    Source: vLLM's documentation, "Distributed inference and serving": the number of attention heads must be divisible
    by the tensor parallel size; key-value heads are split, or copied when there are fewer of them than cards.
    """
    asked = len(demand.gpu_devices) or demand.options.gpu_count
    sizes = (asked,) if asked else _SIZES
    return tuple(size for size in sizes if divides(demand.architecture, size))


def divides(architecture: Architecture | None, size: int) -> bool:
    """Whether a model can be split over so many cards."""
    if size == 1:
        return True
    if architecture is None:
        return False
    heads, kv_heads = architecture.heads or architecture.kv_heads, architecture.kv_heads
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


def _peaks(demand: Demand, engine: str, *, gpu: bool) -> tuple[tuple[int, Peak], ...]:
    if not demand.peaks:
        return ()
    options = demand.options
    shapes = parallel_sizes(demand) if gpu else (CPU,)
    keys = {
        shape: PeakKey(demand.model_id, demand.digest, engine, shape, options.context, options.concurrency)
        for shape in shapes
    }
    return tuple((shape, demand.peaks[key]) for shape, key in keys.items() if key in demand.peaks)
