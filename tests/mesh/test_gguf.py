"""A GGUF file that is cut short or lies about itself is found out, whatever its bytes are."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.gguf.description import Description, describe, parts_of, read_description
from mesh.gguf.header import GgufError, Header, HeaderReader
from tests.fakes.gguf_files import ARRAY, F32, TENSORS, VALUES, gguf, string

SOUND = gguf()
HEAD = b"GGUF" + struct.pack("<I", 3)


def read(content: bytes, *, step: int = 1 << 20, size: int | None = None) -> Header:
    reader = HeaderReader(len(content) if size is None else size)
    for start in range(0, len(content), step):
        reader.feed(content[start : start + step])
    return reader.finish()


@given(st.integers(min_value=1, max_value=len(SOUND)))
def test_a_sound_file_is_read_in_pieces_of_any_size(step: int) -> None:
    header = read(SOUND, step=step)
    assert (header.tensors, header.parameters, header.size_bytes) == (2, 650, 2600)
    assert dict(header.values) == VALUES


@given(st.integers(min_value=0, max_value=len(SOUND) - 32))
def test_a_file_that_is_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(GgufError):
        read(SOUND[:length])


@given(st.binary(max_size=200))
def test_bytes_that_are_no_gguf_are_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(GgufError):
        read(content)


@given(st.integers(min_value=0, max_value=len(SOUND) - 2601), st.integers(min_value=1, max_value=255))
def test_a_header_that_was_changed_is_read_or_refused_and_nothing_else(position: int, change: int) -> None:
    changed = bytearray(SOUND)
    changed[position] ^= change
    try:
        header = read(bytes(changed))
    except GgufError:
        return
    assert header.size_bytes <= len(SOUND)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGML" + bytes(60), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "big-endian"),
        (HEAD + struct.pack("<QQ", 2**40, 0), "claims 1099511627776 tensors"),
        (HEAD + struct.pack("<QQ", 0, 2**40), "claims 1099511627776 values"),
        (HEAD + struct.pack("<QQQ", 0, 1, 2**50), "a key claims"),
        (HEAD + struct.pack("<QQ", 0, 1) + string("k") + struct.pack("<I", 77), "'k' has the unknown type 77"),
        (HEAD + struct.pack("<QQ", 0, 1) + string("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1), "unknown type 9"),
        (HEAD + struct.pack("<QQ", 0, 1) + string("k") + struct.pack("<IIQ", ARRAY, 4, 2**26), "goes beyond byte"),
        (HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"\xff", "no UTF-8"),
        (gguf({**VALUES, "general.alignment": 33}), "no power of two"),
        (gguf(tensors=[("w", (10,), 99, 40)]), "unknown type 99"),
        (gguf(tensors=[("w", (10,), 2, 40)]), "impossible shape"),
        (gguf(tensors=[("w", (0,), F32, 0)]), "impossible shape"),
        (gguf(tensors=[("w", (2**40, 2**40), F32, 0)]), "impossible shape"),
        (gguf(tensors=[("w", (1, 1, 1, 1, 1), F32, 4)]), "5 dimensions"),
        (gguf(tensors=[TENSORS[1], TENSORS[1]]), "is there twice"),
        (gguf(tensors=[("a", (10,), F32, 4000), ("b", (10,), F32, 40)]), "leaves a hole"),
        (gguf(tensors=[("a", (100,), F32, 40), ("b", (10,), F32, 40)]), "overlaps"),
        (gguf(tensors=[("w", (10_000,), F32, 40)]), "truncated"),
    ],
)
def test_a_lie_is_named(content: bytes, words: str) -> None:
    with pytest.raises(GgufError, match=words):
        read(content)


def test_a_header_says_what_its_model_is() -> None:
    said = describe(read(SOUND))
    assert said == Description("llama", "Q4_K_M", 512, 2, 4, 2, 16, "{{ messages }}")
    assert describe(read(gguf({"general.architecture": "odd"}))) == Description(architecture="odd")


def test_the_demo_model_is_read_from_its_directory(gguf_model: Path) -> None:
    said = read_description(gguf_model.parent)
    assert (said.architecture, said.quantization, said.context) == ("llama", "BF16", 2048)
    assert (said.layers, said.heads, said.kv_heads, said.head_dim) == (4, 4, 2, 64)
    with pytest.raises(GgufError, match="has no"):
        read_description(gguf_model.parent.parent / "nothing")


def test_the_parts_of_a_model_are_named_alike() -> None:
    assert parts_of("m.gguf") == ("m.gguf",)
    assert parts_of("m-00002-of-00002.gguf") == ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    assert parts_of("m-00003-of-00002.gguf") == ("m-00003-of-00002.gguf",)
