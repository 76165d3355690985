"""What a GGUF model is, by the values in its header. A file of several says it in its first."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.gguf.header import GgufError, Header, HeaderReader, Value
from mesh.gguf.types import FILE_TYPES

SUFFIX = ".gguf"
# How llama.cpp names the parts of a model that was split.
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_PIECE = 1 << 20
_LARGEST = 2**40
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Description:
    """`context` in tokens that the model was made for; numbers are 0 and texts empty where the file does not say.

    `kv_heads` are those of the layer with most, `head_dim` the mean of a key's and a value's length, rounded up.
    """

    architecture: str = ""
    quantization: str = ""
    context: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    chat_template: str = ""


def describe(header: Header) -> Description:
    """What the header says of its model."""
    values, architecture = header.values, _text(header.values, "general.architecture")[:_LONGEST_NAME]
    heads = _whole(values, f"{architecture}.attention.head_count")
    width = _whole(values, f"{architecture}.embedding_length")
    head_dim = width // heads if heads else 0
    key = _whole(values, f"{architecture}.attention.key_length") or head_dim
    value = _whole(values, f"{architecture}.attention.value_length") or head_dim
    return Description(
        architecture=architecture,
        quantization=FILE_TYPES.get(_whole(values, "general.file_type", zero=-1), ""),
        context=_whole(values, f"{architecture}.context_length"),
        layers=_whole(values, f"{architecture}.block_count"),
        heads=heads,
        kv_heads=_whole(values, f"{architecture}.attention.head_count_kv") or heads,
        head_dim=-(-(key + value) // 2),
        chat_template=_text(values, "tokenizer.chat_template"),
    )


def read_description(directory: Path) -> Description:
    """That of the model in a directory. GgufError when it has none, OSError when it cannot be read."""
    file = model_file(directory)
    reader = HeaderReader(file.stat().st_size)
    with file.open("rb") as content:
        while not reader.complete and (piece := content.read(_PIECE)):
            reader.feed(piece)
    return describe(reader.finish())


def model_file(directory: Path) -> Path:
    """The one that llama.cpp is given: the model, or its first part. GgufError when there is none."""
    found = sorted(directory.glob(f"*{SUFFIX}"))
    if not found:
        raise GgufError(f"{directory.name} has no *{SUFFIX} file")
    return found[0]


def is_gguf(path: str) -> bool:
    """Whether the file holds a model in this format."""
    return path.lower().endswith(SUFFIX)


def parts_of(path: str) -> tuple[str, ...]:
    """The names of all parts of the model that the file is one of; itself when it is whole."""
    found = _PART.fullmatch(path)
    if found is None:
        return (path,)
    count = int(found[3])
    return tuple(_parts(found[1], count)) if 0 < int(found[2]) <= count else (path,)


def _parts(name: str, count: int) -> Iterator[str]:
    return (f"{name}-{number:05d}-of-{count:05d}{SUFFIX}" for number in range(1, count + 1))


def _text(values: Mapping[str, Value], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""


def _whole(values: Mapping[str, Value], key: str, zero: int = 0) -> int:
    """The value, or the largest where each layer has its own; `zero` when there is none that makes sense."""
    value = values.get(key)
    several = value if isinstance(value, tuple) else (value,)
    fitting = [
        each for each in several if isinstance(each, int) and not isinstance(each, bool) and 0 <= each < _LARGEST
    ]
    return max(fitting, default=zero)
