"""Small GGUF files as bytes, sound or broken on purpose."""

import struct
from collections.abc import Mapping, Sequence

ALIGNMENT = 32
U32, STRING, ARRAY, F32 = 4, 8, 9, 0
VALUES: dict[str, str | int] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.chat_template": "{{ messages }}",
}
# Name, shape from the innermost dimension, type, bytes.
TENSORS = (("token_embd.weight", (64, 10), F32, 2560), ("output_norm.weight", (10,), F32, 40))
Tensors = Sequence[tuple[str, tuple[int, ...], int, int]]


def gguf(
    values: Mapping[str, str | int] = VALUES, tensors: Tensors = TENSORS, words: Sequence[str] = ("a", "b")
) -> bytes:
    """A file of tensors of zeros with these values, and these words as its vocabulary."""
    pairs = [pair(key, value) for key, value in values.items()]
    pairs.append(string("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, len(words)))
    pairs[-1] += b"".join(map(string, words))
    described, offset = b"", 0
    for name, shape, kind, size in tensors:
        described += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + described
    return header + bytes(-len(header) % ALIGNMENT) + bytes(offset)


def split() -> tuple[bytes, bytes]:
    """A model in two parts."""
    first = gguf({**VALUES, "split.count": 2, "split.no": 0}, TENSORS[:1])
    return first, gguf({"split.count": 2, "split.no": 1}, TENSORS[1:])


def pair(key: str, value: str | int) -> bytes:
    """A key and a value."""
    if isinstance(value, str):
        return string(key) + struct.pack("<I", STRING) + string(value)
    return string(key) + struct.pack("<II", U32, value)


def string(text: str) -> bytes:
    """A text behind its length."""
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded
