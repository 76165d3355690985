"""Reads the header of a GGUF file as its bytes come, and holds it against the file's size; nothing in it is trusted.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, version, counts, pairs of key and value, what
each tensor is and where it begins, and then, aligned, the tensors one after the other.
"""

import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar

from mesh.gguf.types import ARRAY, SCALARS, STRING, TENSOR_TYPES

MAGIC = b"GGUF"
# A vocabulary of 260,000 words with its pairs takes 12 MB.
LARGEST_HEADER = 128 * 1024 * 1024
_VERSIONS = (2, 3)
_MOST_PAIRS, _MOST_TENSORS, _MOST_WORDS = 10_000, 200_000, 4_000_000
_LONGEST_KEY, _LONGEST_NAME, _LONGEST_TEXT, _MOST_TEXT = 65_535, 63, 1 << 20, 4 << 20
_LONGEST_KEPT_ARRAY = 1024
_MOST_DIMENSIONS = 4
_DEFAULT_ALIGNMENT, _LARGEST_ALIGNMENT = 32, 1 << 20
_PIECE = 64 * 1024

Value = str | int | float | bool | tuple[int | float | bool, ...]
_T = TypeVar("_T")
# Goes on when more bytes are there, and ends with what it looked for.
Steps = Generator[None, None, _T]


class GgufError(ValueError):
    """The file is no sound GGUF file; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says. `values` lack words, long lists and other arrays of text, which are only stepped over.

    `parameters` are the numbers of all `tensors`, `size_bytes` is what these take.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    tensors: int = 0
    parameters: int = 0
    size_bytes: int = 0


class HeaderReader:
    """Takes a file's bytes as they come and keeps no more than what it has to look at next."""

    def __init__(self, file_size: int) -> None:
        self._walk = _Walk(file_size)
        self._steps = self._walk.header()
        self._header: Header | None = None

    @property
    def complete(self) -> bool:
        """Whether the header is known; what follows is not looked at."""
        return self._header is not None

    def feed(self, content: bytes) -> None:
        """The next bytes. GgufError as soon as the header is known to be wrong."""
        if self._header is not None:
            return
        self._walk.kept += content
        try:
            next(self._steps)
        except StopIteration as done:
            self._header = done.value
        self._walk.forget(everything=self._header is not None)

    def finish(self) -> Header:
        """What the header says. GgufError when the file ended within it."""
        if self._header is None:
            raise GgufError(f"it ends after {self._walk.size} bytes, within its header")
        return self._header


@dataclass(slots=True)
class _Walk:
    """The way through the header of a file of `size` bytes; `kept` are those that came, read up to `position`.

    `before` counts those that are forgotten.
    """

    size: int
    kept: bytearray = field(default_factory=bytearray)
    position: int = 0
    before: int = 0
    text_bytes: int = 0

    def forget(self, *, everything: bool) -> None:
        """Lets go of what was read."""
        self.before += self.position
        del self.kept[: len(self.kept) if everything else self.position]
        self.position = 0

    def header(self) -> Steps[Header]:
        if (yield from self._take(4)) != MAGIC:
            raise GgufError("it does not begin with GGUF")
        version = yield from self._whole("<I")
        if version not in _VERSIONS:
            swapped = version >> 24 in _VERSIONS
            raise GgufError(
                "its numbers are written for big-endian machines"
                if swapped
                else f"it has version {version}, and 2 or 3 are read"
            )
        tensors = yield from self._count(_MOST_TENSORS, "tensors")
        values = yield from self._pairs((yield from self._count(_MOST_PAIRS, "values")))
        alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise GgufError(f"its alignment {alignment!r} is no power of two up to {_LARGEST_ALIGNMENT}")
        return (yield from self._tensors(values, tensors, alignment))

    def _pairs(self, count: int) -> Steps[dict[str, Value]]:
        values: dict[str, Value] = {}
        seen = set[str]()
        for _ in range(count):
            key = yield from self._text(_LONGEST_KEY, "a key")
            if key in seen:
                raise GgufError(f"{key!r} is there twice")
            seen.add(key)
            value = yield from self._value(key)
            if value is not None:
                values[key] = value
        return values

    def _value(self, key: str) -> Steps[Value | None]:
        kind = yield from self._whole("<I")
        if kind == ARRAY:
            return (yield from self._array(key))
        if kind == STRING:
            text = yield from self._text(_LONGEST_TEXT, f"the value of {key!r}")
            self.text_bytes += len(text)
            if self.text_bytes > _MOST_TEXT:
                raise GgufError(f"its texts are longer than {_MOST_TEXT} bytes")
            return text
        return (yield from self._number(kind, key))

    def _array(self, key: str) -> Steps[Value | None]:
        kind = yield from self._whole("<I")
        length = yield from self._count(LARGEST_HEADER, f"values in {key!r}")
        if kind == STRING:
            if length > _MOST_WORDS:
                raise GgufError(f"it claims {length} texts in {key!r}, more than {_MOST_WORDS}")
            yield from self._skip_texts(length, key)
            return None
        if kind in SCALARS and length <= _LONGEST_KEPT_ARRAY:
            numbers = []
            for _ in range(length):
                numbers.append((yield from self._number(kind, key)))
            return tuple(numbers)
        if kind not in SCALARS:
            raise GgufError(f"{key!r} is an array of the unknown type {kind}")
        yield from self._skip(length * struct.calcsize(SCALARS[kind]))
        return None

    def _number(self, kind: int, key: str) -> Steps[int | float | bool]:
        if kind not in SCALARS:
            raise GgufError(f"{key!r} has the unknown type {kind}")
        content = yield from self._take(struct.calcsize(SCALARS[kind]))
        number: int | float | bool = struct.unpack(SCALARS[kind], content)[0]
        return number

    def _tensors(self, values: Mapping[str, Value], count: int, alignment: int) -> Steps[Header]:
        names, parameters, end = set[str](), 0, 0
        for _ in range(count):
            name = yield from self._text(_LONGEST_NAME, "a tensor's name")
            if name in names:
                raise GgufError(f"tensor {name!r} is there twice")
            names.add(name)
            numbers, size = yield from self._tensor(name)
            offset = yield from self._whole("<Q")
            begin = _aligned(end, alignment)
            if offset != begin:
                problem = "overlaps its neighbour" if offset < begin else "leaves a hole before it"
                raise GgufError(f"tensor {name!r} at {offset} {problem}")
            parameters, end = parameters + numbers, offset + size
        begin = _aligned(self.before + self.position, alignment)
        if count and begin + end > self.size:
            raise GgufError(f"its tensors end at byte {begin + end} of a file of {self.size}; it is truncated")
        return Header(values, count, parameters, end)

    def _tensor(self, name: str) -> Steps[tuple[int, int]]:
        """How many numbers it has, in how many bytes."""
        dimensions = yield from self._whole("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise GgufError(f"tensor {name!r} has {dimensions} dimensions, more than {_MOST_DIMENSIONS}")
        shape = []
        for _ in range(dimensions):
            shape.append((yield from self._whole("<Q")))
        kind = yield from self._whole("<I")
        if kind not in TENSOR_TYPES:
            raise GgufError(f"tensor {name!r} has the unknown type {kind}")
        block, numbers = TENSOR_TYPES[kind], prod(shape)
        if not 0 < numbers < 2**62 or (shape or [1])[0] % block.numbers:
            raise GgufError(f"tensor {name!r} of {block.name} has the impossible shape {shape}")
        return numbers, numbers // block.numbers * block.size_bytes

    def _text(self, longest: int, what: str) -> Steps[str]:
        length = yield from self._whole("<Q")
        if length > longest:
            raise GgufError(f"{what} claims {length} bytes, more than {longest}")
        try:
            return (yield from self._take(length)).decode()
        except UnicodeDecodeError as error:
            raise GgufError(f"{what} is no UTF-8: {error}") from error

    def _count(self, most: int, what: str) -> Steps[int]:
        count = yield from self._whole("<Q")
        if count > most:
            raise GgufError(f"it claims {count} {what}, more than {most}")
        return count

    def _whole(self, written: str) -> Steps[int]:
        number: int = struct.unpack(written, (yield from self._take(struct.calcsize(written))))[0]
        return number

    def _skip_texts(self, count: int, key: str) -> Steps[None]:
        """Steps over texts; of a vocabulary's hundreds of thousands each costs as little as can be."""
        length_at = struct.Struct("<Q").unpack_from
        while count:
            position, end = self.position, len(self.kept)
            while count and position + 8 <= end:
                length = length_at(self.kept, position)[0]
                if length > _LONGEST_TEXT:
                    raise GgufError(f"a text in {key!r} claims {length} bytes, more than {_LONGEST_TEXT}")
                if position + 8 + length > end:
                    break
                position, count = position + 8 + length, count - 1
            self.position = position
            if count:
                self._require(len(self.kept) - position + 1)
                yield

    def _take(self, length: int) -> Steps[bytes]:
        """The next bytes, which the file must have."""
        self._require(length)
        while self.position + length > len(self.kept):
            yield
        begin, self.position = self.position, self.position + length
        return bytes(self.kept[begin : self.position])

    def _skip(self, length: int) -> Steps[None]:
        while length:
            piece = min(length, _PIECE)
            yield from self._take(piece)
            length -= piece

    def _require(self, length: int) -> None:
        """GgufError unless the file has so many bytes more where a header may be."""
        end = min(self.size, LARGEST_HEADER)
        if self.before + self.position + length > end:
            raise GgufError(f"its header goes beyond byte {end}; it is damaged or truncated")


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
