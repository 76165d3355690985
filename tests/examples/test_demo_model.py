"""The committed demo model is small, complete and readable without any library."""

import json
import math
import struct
from pathlib import Path
from typing import Any

MEGABYTE = 1_000_000
BYTES = {"BF16": 2, "F16": 2, "F32": 4}


def read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header's tensors and how many bytes of data follow it; see the safetensors format."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, path.stat().st_size - 8 - length


def test_the_whole_directory_takes_at_most_8_megabytes(demo_model: Path) -> None:
    assert sum(path.stat().st_size for path in demo_model.rglob("*") if path.is_file()) <= 8 * MEGABYTE


def test_it_has_every_file_of_a_chat_model_and_a_card(demo_model: Path) -> None:
    assert {path.name for path in demo_model.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_weights_are_exactly_what_the_header_says(demo_model: Path) -> None:
    tensors, data = safetensors_header(demo_model / "model.safetensors")
    sizes = [math.prod(tensor["shape"]) * BYTES[tensor["dtype"]] for tensor in tensors.values()]
    assert sum(sizes) == data
    assert max(tensor["data_offsets"][1] for tensor in tensors.values()) == data


def test_the_card_names_the_number_of_parameters(demo_model: Path) -> None:
    tensors, _ = safetensors_header(demo_model / "model.safetensors")
    parameters = sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    assert f"{parameters:,}" in (demo_model / "README.md").read_text(encoding="utf-8")


def test_it_is_a_llama_whose_tokenizer_and_defaults_fit_together(demo_model: Path) -> None:
    config = read_json(demo_model / "config.json")
    tokenizer = read_json(demo_model / "tokenizer.json")
    generation = read_json(demo_model / "generation_config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["vocab_size"] == len(tokenizer["model"]["vocab"])
    assert config["eos_token_id"] == generation["eos_token_id"] == tokenizer["model"]["vocab"]["<|end|>"]
    assert generation["max_new_tokens"] <= 256
