"""Small ONNX models as bytes: a graph that gives back what it takes, sound or broken on purpose."""

from collections.abc import Iterable, Sequence

FLOAT, INT64, BYTES = 1, 7, 8
Declared = tuple[str, int, Sequence["int | str"]]


def identity(
    shape: Sequence["int | str"] = ("batch", 4),
    *,
    gives: Declared | None = None,
    weights: Iterable[bytes] = (),
    old: bool = False,
    opset: int = 17,
) -> bytes:
    """Takes `x` and gives it as `y`; `old` lists the weights among the inputs too, as files once did."""
    weights = list(weights)
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    inputs = [declared("x", FLOAT, shape)] + ([declared("w", FLOAT, [2, 3])] if old else [])
    parts = [field(1, node), field(2, b"graph"), *(field(5, each) for each in weights)]
    parts += [field(11, each) for each in inputs]
    parts.append(field(12, declared(*(gives or ("y", FLOAT, shape)))))
    return number(1, 8) + field(8, field(1, b"") + number(2, opset)) + field(7, b"".join(parts))


def tensor(name: str, dims: Sequence[int], location: str = "") -> bytes:
    """Weights of zeros, or in another file."""
    head = b"".join(number(1, dim) for dim in dims) + number(2, FLOAT) + field(8, name.encode())
    if location:
        return head + field(13, field(1, b"location") + field(2, location.encode())) + number(14, 1)
    size = 4
    for dim in dims:
        size *= dim
    return head + field(9, bytes(size))


def declared(name: str, element: int, shape: Sequence["int | str"] | None) -> bytes:
    """A ValueInfoProto."""
    dims = [number(1, size) if isinstance(size, int) else field(2, size.encode()) for size in shape or ()]
    shaped = b"" if shape is None else field(2, b"".join(field(1, dim) for dim in dims))
    return field(1, name.encode()) + field(2, field(1, number(1, element) + shaped))


def field(number_of: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number_of << 3 | 2) + varint(len(content)) + content


def number(number_of: int, value: int) -> bytes:
    """A varint field."""
    return varint(number_of << 3) + varint(value)


def varint(value: int) -> bytes:
    """Protobuf's number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
