"""How much memory a model needs: weights, KV cache, and what comes on top.

Weights are multiplied by 1.2, the usual bound once activations and fragmentation are in (Q. Anthony, S. Biderman,
H. Schoelkopf, "Transformer Math 101", EleutherAI, 2023, section on inference). The KV cache is 2 × layers × kv_heads ×
head_dim × bytes per element for each token (R. Pope et al., "Efficiently Scaling Transformer Inference", 2022, with the
key-value heads of grouped-query attention).
"""

from controller.models.model import Architecture, megabytes

# A CUDA context with the libraries of an engine, before the first weight.
CUDA_CONTEXT_MB = 600
_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
# What an engine keeps its cache in when nothing is said.
_DEFAULT_BYTES = 2


def weights_mb(weights_bytes: int) -> int:
    """Megabytes of the loaded weights with activations and fragmentation."""
    return megabytes(weights_bytes * 6 // 5)


def kv_cache_mb(architecture: Architecture, tokens: int) -> int:
    """Megabytes of the keys and values of so many tokens."""
    return megabytes(kv_bytes_per_token(architecture) * tokens)


def kv_bytes_per_token(architecture: Architecture) -> int:
    """Bytes of the keys and values of one token."""
    # An engine never keeps its cache in eight bits unless it is told to.
    element = max(_DEFAULT_BYTES, _BYTES.get(architecture.dtype, _DEFAULT_BYTES))
    return 2 * architecture.layers * architecture.kv_heads * architecture.head_dim * element


def min_vram_mb(weights_bytes: int) -> int:
    """Megabytes of device memory below which the weights cannot even be loaded."""
    return weights_mb(weights_bytes) + CUDA_CONTEXT_MB


def min_gpu_memory_mb(weights_bytes: int, architecture: Architecture | None) -> int:
    """Megabytes of device memory that serve one request of the model's whole context."""
    cache = kv_cache_mb(architecture, architecture.context) if architecture else 0
    return min_vram_mb(weights_bytes) + cache
