"""Reads the inputs and outputs of an ONNX file as it passes, without keeping its weights.

Format: ModelProto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) on protobuf's wire
(https://protobuf.dev/programming-guides/encoding/). Only what is declared at the top of the graph is read.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path, PurePosixPath

ANY = -1
_CHUNK = 1024 * 1024
# Weights are passed over; what is kept of one declaration is small in every sound file.
_LARGEST_DECLARATION = 1024 * 1024
_MOST_DECLARATIONS = 100_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# ModelProto, GraphProto, TensorProto, ValueInfoProto and what is below them: the numbers of the fields that are read.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 8, 13
_NAME, _TYPE, _TENSOR_TYPE, _ELEMENT, _SHAPE, _DIM, _DIM_VALUE = 1, 2, 1, 1, 2, 1, 1
_KEY, _VALUE = 1, 2
# TensorProto.DataType in the names of the Open Inference Protocol.
_TYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip


class OnnxError(ValueError):
    """The file is no sound ONNX model, or one that cannot be served; the message says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output. `datatype` as in the Open Inference Protocol ("FP32", "BYTES"); -1 is a size left open."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} [{', '.join(str(size) for size in self.shape)}]"


@dataclass(frozen=True, slots=True)
class Graph:
    """What the graph takes and gives, how many numbers its weights are, and the files beside it that hold some."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: int = 0
    external_files: frozenset[str] = frozenset()


class OnnxReader:
    """Takes a file's bytes as they come. `feed` and `finish` raise OnnxError once the file is known to be wrong."""

    def __init__(self) -> None:
        self._parser = _model()
        self._needed = next(self._parser)
        self._kept = bytearray()
        self._graph: Graph | None = None

    def feed(self, content: bytes) -> None:
        """The next bytes."""
        position = 0
        while position < len(content):
            if self._needed < 0:  # to be passed over
                passed = min(-self._needed, len(content) - position)
                position, self._needed = position + passed, self._needed + passed
                if not self._needed:
                    self._go_on(b"")
                continue
            taken = content[position : position + self._needed - len(self._kept)]
            self._kept += taken
            position += len(taken)
            if len(self._kept) == self._needed:
                found, self._kept = bytes(self._kept), bytearray()
                self._go_on(found)

    def finish(self) -> Graph:
        """What was read."""
        try:
            if self._needed != 1 or self._kept:
                raise OnnxError("it is truncated")
            self._parser.send(b"")
        except StopIteration as end:
            graph: Graph = end.value
            return graph
        raise OnnxError("it is truncated")

    def _go_on(self, found: bytes) -> None:
        try:
            self._needed = self._parser.send(found)
        except StopIteration:
            raise OnnxError("it goes on after its end") from None


def read_graph(path: Path) -> Graph:
    """The graph of a file. Raises OnnxError, OSError."""
    reader = OnnxReader()
    with path.open("rb") as file:
        while content := file.read(_CHUNK):
            reader.feed(content)
    return reader.finish()


# A parser yields how many bytes it wants, or minus how many it passes over, and is sent them; no bytes mean the end.
_Parser = Generator[int, bytes, "Graph"]


@dataclass(slots=True)
class _Found:
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    weights: set[str] = field(default_factory=set)
    parameters: int = 0
    external_files: set[str] = field(default_factory=set)


def _model() -> _Parser:
    found, has_graph = _Found(), False
    while True:
        first = yield 1
        if not first:
            break
        key, _ = yield from _varint(first)
        number, wire = key >> 3, key & 7
        if number == _MODEL_GRAPH and wire == _BYTES:
            size, _ = yield from _varint((yield 1))
            yield from _graph(found, size)
            has_graph = True
        else:
            yield from _pass_over(wire)
    if not has_graph:
        raise OnnxError("it holds no graph")
    # Older files list their weights among the inputs too.
    inputs = tuple(tensor for tensor in found.inputs if tensor.name not in found.weights)
    return Graph(inputs, tuple(found.outputs), found.parameters, frozenset(found.external_files))


def _graph(found: _Found, size: int) -> Generator[int, bytes, None]:
    while size > 0:
        key, used = yield from _varint((yield 1))
        number, wire = key >> 3, key & 7
        size -= used
        if wire != _BYTES:
            size -= yield from _pass_over(wire)
            continue
        length, used = yield from _varint((yield 1))
        size -= used + length
        if number == _GRAPH_INITIALIZER:
            yield from _weights(found, length)
        elif number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
            tensors = found.inputs if number == _GRAPH_INPUT else found.outputs
            tensors.append(_tensor((yield _limited(length))))
        elif length:
            yield -length
    if size:
        raise OnnxError("its graph does not end where it says")


def _weights(found: _Found, size: int) -> Generator[int, bytes, None]:
    """One tensor of weights: its name, how many numbers it has, and the file that holds them where it is another."""
    dims: list[int] = []
    while size > 0:
        key, used = yield from _varint((yield 1))
        number, wire = key >> 3, key & 7
        size -= used
        if number == _TENSOR_DIMS and wire == _VARINT:
            dim, used = yield from _varint((yield 1))
            dims.append(dim)
            size -= used
        elif wire == _BYTES:
            length, used = yield from _varint((yield 1))
            size -= used + length
            if number in (_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_EXTERNAL) and length:
                _note_weights(found, dims, number, (yield _limited(length)))
            elif length:
                yield -length
        else:
            size -= yield from _pass_over(wire)
    found.parameters += prod(dims)
    if len(found.weights) > _MOST_DECLARATIONS:
        raise OnnxError(f"it has more than {_MOST_DECLARATIONS} tensors")


def _note_weights(found: _Found, dims: list[int], number: int, content: bytes) -> None:
    if number == _TENSOR_DIMS:  # packed
        position = 0
        while position < len(content):
            dim, position = _read_varint(content, position)
            dims.append(dim)
    elif number == _TENSOR_NAME:
        found.weights.add(_text(content))
    else:
        entry = dict(_fields(content))
        if entry.get(_KEY) == b"location":
            found.external_files.add(_plain_file(_text(entry.get(_VALUE, b""))))


def _plain_file(location: str) -> str:
    path = PurePosixPath(location)
    if not location or path.is_absolute() or ".." in path.parts or "\\" in location:
        raise OnnxError(f"its weights are said to lie at {location!r}, outside the model")
    return str(path)


def _limited(length: int) -> int:
    if not 0 < length <= _LARGEST_DECLARATION:
        raise OnnxError(f"a declaration of {length} bytes is none")
    return length


def _varint(first: bytes) -> Generator[int, bytes, tuple[int, int]]:
    """The number that begins with this byte, and how many bytes it takes."""
    value, shift, byte = 0, 0, first
    while True:
        if not byte:
            raise OnnxError("it is truncated")
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return value, shift // 7
        if shift > 63:
            raise OnnxError("it is no protobuf message")
        byte = yield 1


def _pass_over(wire: int) -> Generator[int, bytes, int]:
    """Passes over a field's value; how many bytes that took."""
    if wire == _VARINT:
        _, used = yield from _varint((yield 1))
        return used
    if wire == _BYTES:
        length, used = yield from _varint((yield 1))
        if length:
            yield -length
        return used + length
    if wire in (_FIXED64, _FIXED32):
        length = 8 if wire == _FIXED64 else 4
        yield -length
        return length
    raise OnnxError("it is no protobuf message")


def _tensor(content: bytes) -> Tensor:
    """A ValueInfoProto."""
    entry = dict(_fields(content))
    name = _text(entry.get(_NAME, b""))
    tensor = dict(_fields(_message(entry.get(_TYPE)))).get(_TENSOR_TYPE)
    if tensor is None:
        raise OnnxError(f"{name!r} is no tensor; only tensors can be served")
    declared = dict(_fields(_message(tensor)))
    datatype = _TYPES.get(_number(declared.get(_ELEMENT)))
    if datatype is None:
        raise OnnxError(f"{name!r} has an element type that no protocol knows ({_number(declared.get(_ELEMENT))})")
    if _SHAPE not in declared:
        raise OnnxError(f"{name!r} has no shape; export the model with one, open sizes may be symbols")
    dims = [dict(_fields(_message(dim))) for number, dim in _fields(_message(declared[_SHAPE])) if number == _DIM]
    return Tensor(name, datatype, tuple(_size(dim.get(_DIM_VALUE)) for dim in dims))


def _size(value: "int | bytes | None") -> int:
    """A symbol, nothing and what is no size are left open."""
    return value if isinstance(value, int) and 0 < value < 2**62 else ANY


def _fields(content: bytes) -> "Iterator[tuple[int, int | bytes]]":
    position = 0
    while position < len(content):
        key, position = _read_varint(content, position)
        wire = key & 7
        if wire == _VARINT:
            value, position = _read_varint(content, position)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            length, position = _read_varint(content, position)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise OnnxError("it is no protobuf message")
        if position + length > len(content):
            raise OnnxError("it is no protobuf message")
        yield key >> 3, content[position : position + length]
        position += length


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(content) and shift <= 63:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise OnnxError("it is no protobuf message")


def _message(value: "int | bytes | None") -> bytes:
    return value if isinstance(value, bytes) else b""


def _number(value: "int | bytes | None") -> int:
    return value if isinstance(value, int) else 0


def _text(value: "int | bytes") -> str:
    if not isinstance(value, bytes):
        raise OnnxError("it is no protobuf message")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise OnnxError("a name in it is no text") from error
