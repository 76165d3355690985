"""A LoRA adapter for the demo model that changes what it says, made from fixed random numbers."""

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path

RANK, WIDTH, KV_WIDTH, LAYERS = 4, 256, 128, 4
# Large enough that the likeliest token is another one.
_SIZE = 0.5
_SEED = 7


def write_adapter(directory: Path) -> Path:
    """The adapter in the layout of Hugging Face's PEFT; answers the directory."""
    directory.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["v_proj"],
        "task_type": "CAUSAL_LM",
    }
    (directory / "adapter_config.json").write_text(
        json.dumps({**config, "bias": "none", "base_model_name_or_path": ""})
    )
    (directory / "adapter_model.safetensors").write_bytes(_weights())
    return directory


def _weights() -> bytes:
    numbers, header, data = random.Random(_SEED), {}, bytearray()  # noqa: S311 - weights are no secret
    for name, rows, columns in _shapes():
        values = (numbers.uniform(-_SIZE, _SIZE) for _ in range(rows * columns))
        content = struct.pack(f"<{rows * columns}f", *values)
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + bytes(data)


def _shapes() -> Iterator[tuple[str, int, int]]:
    for layer in range(LAYERS):
        module = f"base_model.model.model.layers.{layer}.self_attn.v_proj"
        yield f"{module}.lora_A.weight", RANK, WIDTH
        yield f"{module}.lora_B.weight", KV_WIDTH, RANK
