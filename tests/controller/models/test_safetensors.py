"""A safetensors file that is cut short or lies about itself is found out, whatever its bytes are."""

import asyncio
import json
import struct

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.models.model import SafetensorsInvalidError
from controller.models.safetensors import LARGEST_HEADER, SafetensorsReader, Tensors
from tests.fakes.model_files import framed, safetensors, tiny_model, upload
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, Rooms

SOUND = safetensors({"a": ("F32", [2, 3], 24), "b": ("BF16", [4], 8), "empty": ("I64", [0], 0), "one": ("U8", [], 1)})


def read(content: bytes, *, step: int = 1 << 20, size: int | None = None) -> Tensors:
    async def feed() -> Tensors:
        reader = SafetensorsReader("w.safetensors", len(content) if size is None else size)
        for start in range(0, len(content), step):
            await reader.feed(content[start : start + step])
        return reader.finish()

    return asyncio.run(feed())


def lying(header: object, data: bytes = bytes(8)) -> bytes:
    return framed(json.dumps(header).encode(), data)


def tensor(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@given(st.integers(min_value=1, max_value=len(SOUND)))
def test_a_sound_file_is_read_in_pieces_of_any_size(step: int) -> None:
    assert read(SOUND, step=step) == Tensors(parameters=11, size_bytes=33, dtype="F32")


@given(st.integers(min_value=0, max_value=len(SOUND) - 1))
def test_a_file_that_is_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(SafetensorsInvalidError):
        read(SOUND[:length])


@given(st.binary(max_size=200))
def test_bytes_that_are_no_safetensors_are_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(SafetensorsInvalidError, match="no sound safetensors file"):
        read(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (struct.pack("<Q", LARGEST_HEADER + 1) + bytes(64), "claims"),
        (struct.pack("<Q", 2**63) + bytes(64), "claims"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (framed(b"[]", b""), "no JSON object"),
        (framed(b"{}", b""), "no tensor"),
        (framed(b" {}", b""), "no JSON object"),
        (framed(b"[" * 50_000, b""), "not readable"),
        (framed(b'{"w": {}, "w": {}}', b""), "twice"),
        (framed(b"\xff\xfe{}", b""), "not readable"),
        (lying(tensor(dtype="F99")), "unknown type"),
        (lying(tensor(dtype=["F32"])), "unknown type"),
        (lying({"w": 1}), "unknown type"),
        (lying(tensor(shape=(-1,))), "shape"),
        (lying(tensor(shape=(True,))), "shape"),
        (lying(tensor(shape="2")), "shape"),
        (lying(tensor(offsets=(8, 0))), "data_offsets"),
        (lying(tensor(offsets=(0, 4, 8))), "data_offsets"),
        (lying(tensor(shape=(3,))), "has 8 bytes"),
        (lying(tensor(shape=(2**40, 2**40))), "has 8 bytes"),
        (lying(tensor(offsets=(4, 12)), bytes(12)), "hole"),
        (lying({**tensor(), "v": tensor()["w"]}), "overlaps"),
        (lying(tensor(), bytes(4)), "truncated"),
        (lying(tensor(), bytes(9)), "longer"),
    ],
)
def test_a_file_that_lies_is_refused_with_what_is_wrong(content: bytes, words: str) -> None:
    with pytest.raises(SafetensorsInvalidError, match=words) as caught:
        read(content)
    assert caught.value.metadata == {"path": "w.safetensors"}


def test_large_headers_are_read_too() -> None:
    content = safetensors({f"layer.{number}": ("F16", [1], 2) for number in range(5_000)})
    assert read(content).parameters == 5_000


async def test_a_truncated_file_is_refused_by_name_and_leaves_nothing(rooms: Rooms) -> None:
    files = tiny_model()
    files["model.safetensors"] = files["model.safetensors"][:-100]
    error = await refusal(rooms.models.ImportModel(upload("cut", files), metadata=EDITOR))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SAFETENSORS_INVALID")
    assert "model.safetensors" in error.message
    assert "truncated" in error.message
    assert rooms.stored() == []
