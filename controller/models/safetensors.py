"""Reads the header of a safetensors file out of a stream and holds it against the file's size.

Format: 8 bytes little-endian length N, N bytes of JSON that begins with `{`, then the tensors' bytes without holes
(https://github.com/huggingface/safetensors, README, "Format").
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

from controller.models.model import SafetensorsInvalidError

LENGTH_BYTES = 8
# The reference implementation takes 100 MB; a shard of 50,000 tensors has 7.
LARGEST_HEADER = 16 * 1024 * 1024
_INLINE_HEADER = 64 * 1024
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_MOST_DIMENSIONS = 64


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a file holds: how many numbers, in how many bytes, and mostly of which type."""

    parameters: int = 0
    size_bytes: int = 0
    dtype: str = ""


class SafetensorsReader:
    """Takes a file's bytes as they come, keeps no more than the header, and says what is wrong with it."""

    def __init__(self, path: str, file_size: int) -> None:
        self._path = path
        self._file_size = file_size
        self._header = bytearray()
        self._needed = LENGTH_BYTES
        self._tensors: Tensors | None = None

    async def feed(self, content: bytes) -> None:
        """The next bytes. SafetensorsInvalidError as soon as the header is known to be wrong."""
        while content and self._tensors is None:
            missing = self._needed - len(self._header)
            self._header += content[:missing]
            content = content[missing:]
            if len(self._header) < self._needed:
                return
            if self._needed == LENGTH_BYTES:
                self._needed += self._header_length()
            else:
                self._tensors = await self._parse()
                self._header.clear()

    def finish(self) -> Tensors:
        """What the file holds. SafetensorsInvalidError when it ended within its header."""
        if self._tensors is None:
            raise SafetensorsInvalidError(self._path, f"it ends after {self._file_size} bytes, within its header")
        return self._tensors

    def _header_length(self) -> int:
        length = int.from_bytes(self._header, "little")
        if length > LARGEST_HEADER:
            raise SafetensorsInvalidError(
                self._path, f"its header claims {length} bytes, more than the {LARGEST_HEADER} there may be"
            )
        if length < 2 or LENGTH_BYTES + length > self._file_size:
            raise SafetensorsInvalidError(
                self._path,
                f"its header claims {length} bytes of a file of {self._file_size}; it is truncated or no such file",
            )
        return length

    async def _parse(self) -> Tensors:
        header, data_size = bytes(self._header[LENGTH_BYTES:]), self._file_size - self._needed
        if len(header) <= _INLINE_HEADER:
            return read_header(self._path, header, data_size)
        return await asyncio.to_thread(read_header, self._path, header, data_size)


def read_header(path: str, header: bytes, data_size: int) -> Tensors:
    """What the header says of `data_size` bytes of tensors. SafetensorsInvalidError when that cannot be true."""
    entries = _entries(path, header)
    spans, sizes, parameters = [], Counter[str](), 0
    for name, entry in entries.items():
        dtype, count, begin, end = _tensor(path, name, entry)
        if end - begin != count * _BITS[dtype] // 8 or count * _BITS[dtype] % 8:
            raise SafetensorsInvalidError(
                path, f"tensor {name!r} of {count} × {dtype} has {end - begin} bytes at {begin} to {end}"
            )
        spans.append((begin, end, name))
        sizes[dtype] += end - begin
        parameters += count
    _check_spans(path, spans, data_size)
    return Tensors(parameters, data_size, sizes.most_common(1)[0][0])


def _entries(path: str, header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise SafetensorsInvalidError(path, f"its header is not readable: {error}") from error
    if not isinstance(entries, dict) or header[:1] != b"{":
        raise SafetensorsInvalidError(path, "its header is no JSON object")
    entries.pop("__metadata__", None)
    if not entries:
        raise SafetensorsInvalidError(path, "it holds no tensor")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name is there twice")
    return entries


def _tensor(path: str, name: str, entry: Any) -> tuple[str, int, int, int]:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise SafetensorsInvalidError(path, f"tensor {name!r} has the unknown type {dtype!r}")
    if not _are_sizes(shape):
        raise SafetensorsInvalidError(path, f"tensor {name!r} has no valid shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise SafetensorsInvalidError(path, f"tensor {name!r} has no valid data_offsets")
    return dtype, prod(shape), offsets[0], offsets[1]


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS:
        return False
    return all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**63 for each in value)


def _check_spans(path: str, spans: Iterable[tuple[int, int, str]], data_size: int) -> None:
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            problem = "overlaps its neighbour" if begin < position else "leaves a hole before it"
            raise SafetensorsInvalidError(path, f"tensor {name!r} at {begin} {problem}")
        position = end
    if position != data_size:
        problem = "truncated" if position > data_size else "longer than that"
        raise SafetensorsInvalidError(
            path, f"its header describes {position} bytes of tensors, the file has {data_size}; it is {problem}"
        )
