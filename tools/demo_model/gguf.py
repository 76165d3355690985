"""Writes the demo model as one GGUF file, which llama.cpp serves, with its tokenizer and chat template inside.

    python -m tools.demo_model.gguf --model examples/demo-model --out demo.gguf

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3. The numbers stay as they are, bfloat16,
but for the norms, which llama.cpp wants in float32. Needs nothing but Python; the same model gives the same bytes.
"""

import argparse
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

ALIGNMENT = 32
# The format's numbers for types of values and of tensors, for kinds of tokens, and for a file of mostly bfloat16.
_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5
_TENSOR_F32, _TENSOR_BF16 = 0, 30
_NORMAL, _CONTROL = 1, 3
_MOSTLY_BF16 = 32
_BF16_BYTES = 2
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Rows and columns as the safetensors file has them, and the bytes as the GGUF file will."""

    name: str
    shape: tuple[int, ...]
    kind: int
    content: bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("examples/demo-model"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.write_bytes(converted(arguments.model))


def converted(model: Path, chat_template: str = "") -> bytes:
    """The file for a model directory of the Llama architecture in bfloat16, tokenized by pairs of bytes.

    `chat_template` replaces the model's own.
    """
    config = json.loads((model / "config.json").read_bytes())
    template = chat_template or (model / "chat_template.jinja").read_text()
    pairs = [*_described(config), *_words(model), _text("tokenizer.chat_template", template)]
    tensors = list(_tensors(model / "model.safetensors", config))
    sizes = (len(_padded(tensor.content)) for tensor in tensors)
    offsets = accumulate(sizes, initial=0)
    header = (
        b"GGUF"
        + struct.pack("<IQQ", 3, len(tensors), len(pairs))
        + b"".join(pairs)
        + b"".join(_announced(tensor, offset) for tensor, offset in zip(tensors, offsets, strict=False))
    )
    return _padded(header) + b"".join(_padded(tensor.content) for tensor in tensors)


def _described(config: dict[str, Any]) -> Iterator[bytes]:
    """What the model is."""
    yield _text("general.architecture", "llama")
    yield _text("general.name", "aiops demo")
    yield _number("general.file_type", _MOSTLY_BF16)
    yield _number("llama.context_length", config["max_position_embeddings"])
    yield _number("llama.embedding_length", config["hidden_size"])
    yield _number("llama.block_count", config["num_hidden_layers"])
    yield _number("llama.feed_forward_length", config["intermediate_size"])
    yield _number("llama.attention.head_count", config["num_attention_heads"])
    yield _number("llama.attention.head_count_kv", config["num_key_value_heads"])
    yield _number("llama.attention.key_length", config["head_dim"])
    yield _number("llama.attention.value_length", config["head_dim"])
    yield _number("llama.rope.dimension_count", config["head_dim"])
    yield _number("llama.vocab_size", config["vocab_size"])
    yield _pair("llama.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", config["rms_norm_eps"]))
    yield _pair("llama.rope.freq_base", _F32, struct.pack("<f", config["rope_parameters"]["rope_theta"]))


def _words(model: Path) -> Iterator[bytes]:
    """The tokenizer: its words in the order of their numbers, and which pairs become one, the most frequent first."""
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    named = json.loads((model / "tokenizer_config.json").read_bytes())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    words = sorted(vocabulary | special, key=(vocabulary | special).__getitem__)
    kinds = struct.pack(f"<{len(words)}i", *(_CONTROL if word in special else _NORMAL for word in words))
    merges = [each if isinstance(each, str) else " ".join(each) for each in tokenizer["model"]["merges"]]
    yield _text("tokenizer.ggml.model", "gpt2")
    yield _text("tokenizer.ggml.pre", "gpt-2")
    yield _texts("tokenizer.ggml.tokens", words)
    yield _pair("tokenizer.ggml.token_type", _ARRAY, struct.pack("<IQ", _I32, len(words)) + kinds)
    yield _texts("tokenizer.ggml.merges", merges)
    for name, key in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")):
        yield _number(f"tokenizer.ggml.{name}_token_id", special[named[key]])
    # The chat template begins with it.
    yield _pair("tokenizer.ggml.add_bos_token", _BOOL, b"\0")


def _tensors(weights: Path, config: dict[str, Any]) -> Iterator[Tensor]:
    content = weights.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header.pop("__metadata__", None)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, entry in sorted(header.items()):
        first, last = entry["data_offsets"]
        numbers, called = content[begin + first : begin + last], _called(name)
        if len(entry["shape"]) == 1:
            yield Tensor(called, tuple(entry["shape"]), _TENSOR_F32, _widened(numbers))
            continue
        rows, columns = entry["shape"]
        part = called.split(".")[-2]
        if part in heads:
            numbers = _interleaved(numbers, rows, columns * _BF16_BYTES, heads[part])
        yield Tensor(called, (rows, columns), _TENSOR_BF16, numbers)


def _called(name: str) -> str:
    """GGUF's name of a tensor."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_PARTS[rest.removesuffix('.weight')]}.weight"


def _interleaved(numbers: bytes, rows: int, width: int, heads: int) -> bytes:
    """Rows in the order in which llama.cpp turns them: it rotates neighbours, the model a head's halves."""
    half = rows // heads // 2
    order = (
        head * 2 * half + side * half + position for head in range(heads) for position in range(half) for side in (0, 1)
    )
    return b"".join(numbers[row * width : (row + 1) * width] for row in order)


def _widened(numbers: bytes) -> bytes:
    """bfloat16 is the upper half of float32."""
    return bytes(chain.from_iterable((0, 0, low, high) for low, high in zip(numbers[::2], numbers[1::2], strict=True)))


def _announced(tensor: Tensor, offset: int) -> bytes:
    """The shape is told from the innermost dimension."""
    dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
    return _string(tensor.name) + dimensions + struct.pack("<IQ", tensor.kind, offset)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % ALIGNMENT)


def _text(key: str, value: str) -> bytes:
    return _pair(key, _STRING, _string(value))


def _texts(key: str, values: Sequence[str]) -> bytes:
    return _pair(key, _ARRAY, struct.pack("<IQ", _STRING, len(values)) + b"".join(map(_string, values)))


def _number(key: str, value: int) -> bytes:
    return _pair(key, _U32, struct.pack("<I", value))


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


if __name__ == "__main__":
    main()
