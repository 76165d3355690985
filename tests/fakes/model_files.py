"""Small model directories as bytes, sound or broken on purpose."""

import hashlib
import json
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiops.models.v1 import model_pb2, model_service_pb2

CHUNK = 64 * 1024
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
}
Files = Mapping[str, bytes]


def safetensors(tensors: Mapping[str, tuple[str, list[int], int]], data: bytes | None = None) -> bytes:
    """A file with tensors of zeros: dtype, shape and size in bytes of each."""
    header, position = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return framed(json.dumps(header).encode(), bytes(position) if data is None else data)


def framed(header: bytes, data: bytes) -> bytes:
    """A header behind its length, and the data."""
    return struct.pack("<Q", len(header)) + header + data


def tiny_model(*, config: Mapping[str, Any] | None = None, rows: int = 100) -> dict[str, bytes]:
    """A directory that passes for a language model of `rows` × 10 parameters."""
    return {
        "config.json": json.dumps(CONFIG if config is None else config).encode(),
        "model.safetensors": safetensors({"w": ("F32", [rows, 10], rows * 40)}),
        "tokenizer.json": b"{}",
    }


def tiny_adapter() -> dict[str, bytes]:
    """A directory that passes for a LoRA adapter."""
    return {
        "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}).encode(),
        "adapter_model.safetensors": safetensors({"w": ("F32", [4, 4], 64)}),
    }


def header(name: str, files: Files, **fields: Any) -> model_service_pb2.ImportModelRequest:
    """The announcement of an upload."""
    manifest = [
        model_pb2.ModelFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in files.items()
    ]
    return model_service_pb2.ImportModelRequest(
        header=model_service_pb2.ImportHeader(**{"name": name, "files": manifest, **fields})
    )


async def upload(name: str, files: Files, **fields: Any) -> AsyncIterator[model_service_pb2.ImportModelRequest]:
    """An upload as a client sends it."""
    yield header(name, files, **fields)
    async for chunk in chunks(b"".join(files.values())):
        yield chunk


async def chunks(content: bytes) -> AsyncIterator[model_service_pb2.ImportModelRequest]:
    """Bytes in messages."""
    for start in range(0, len(content), CHUNK):
        yield model_service_pb2.ImportModelRequest(chunk=content[start : start + CHUNK])
