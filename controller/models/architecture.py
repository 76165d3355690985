"""Reads from a model's config.json what its memory depends on."""

import json
from collections.abc import Mapping
from typing import Any

from controller.models.model import Architecture, NotAModelError

# The names that Hugging Face configurations use, the usual one first.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
_HEAD_DIM = ("head_dim", "kv_channels")
_WIDTH = ("hidden_size", "n_embd", "d_model")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
_LARGEST = 2**40


def read_config(content: bytes) -> Mapping[str, Any]:
    """The configuration as an object. NotAModelError when it is none."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotAModelError(f"config.json is not readable JSON: {error}", path="config.json") from error
    if not isinstance(config, dict):
        raise NotAModelError("config.json must hold a JSON object", path="config.json")
    return config


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """What the configuration says of a decoder; None when it does not say enough.

    A model of several parts keeps its language part under `text_config`.
    """
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    layers, heads, context = _whole(text, _LAYERS), _whole(text, _HEADS), _whole(text, _CONTEXT)
    width = _whole(text, _WIDTH)
    head_dim = _whole(text, _HEAD_DIM) or (width // heads if width and heads else 0)
    if not (layers and heads and context and head_dim):
        return None
    dtype = _dtype(text) or _dtype(config)
    return Architecture(layers, _whole(text, _KV_HEADS) or heads, head_dim, context, dtype, heads)


def _whole(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST:
            return value
    return 0


def _dtype(config: Mapping[str, Any]) -> str:
    for name in ("dtype", "torch_dtype"):
        value = config.get(name)
        if isinstance(value, str):
            return value.removeprefix("torch.")[:32]
    return ""
