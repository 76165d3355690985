"""GGUF models in the registry: what is read of them, and what is refused with the reason."""

import asyncio
from pathlib import Path

import grpc
import pytest
from aiops.models.v1 import model_pb2, model_service_pb2

from tests.fakes.gguf_files import VALUES, gguf, split
from tests.fakes.model_files import Files, tiny_model, upload
from tests.fixtures.registry import EDITOR, Rooms

PARTS = dict(zip(("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"), split(), strict=True))
FIRST = split()[0]


async def imported(rooms: Rooms, files: Files, name: str = "quantised", **fields: object) -> model_pb2.Model:
    request = upload(name, files, **{"framework": model_pb2.llamacpp, **fields})
    answer: model_service_pb2.ImportModelResponse = await rooms.models.ImportModel(request, metadata=EDITOR)
    return answer.model


async def test_a_file_is_imported_with_what_its_header_says(rooms: Rooms, gguf_model: Path) -> None:
    content = await asyncio.to_thread(gguf_model.read_bytes)
    model = await imported(rooms, {"demo.gguf": content, "README.md": b"# demo"})
    assert (model.framework, model.model_format, model.task) == (
        model_pb2.llamacpp,
        model_pb2.Model.gguf,
        model_pb2.Model.llm,
    )
    said = model.metadata
    assert (said.architecture, said.quantization, said.context_length) == ("llama", "BF16", 2048)
    assert (said.parameters, said.chat_template, model.size_mb) == (3_426_560, True, 7)
    # Weights of 6.5 MiB and a fifth, a CUDA context, and 2,048 tokens of 2 × 4 layers × 2 heads × 64 × 2 bytes.
    assert (model.min_vram, model.min_gpu_memory) == (608, 612)


async def test_the_parts_of_a_model_are_counted_together(rooms: Rooms) -> None:
    model = await imported(rooms, PARTS)
    assert (model.metadata.parameters, model.metadata.quantization) == (650, "Q4_K_M")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"m.gguf": b"no model at all"}, "m.gguf is no sound GGUF model: it does not begin with GGUF"),
        ({"m.gguf": gguf()[:-2000]}, "truncated"),
        ({"m.gguf": gguf(tensors=())}, "holds no tensor"),
        ({"m.gguf": gguf({})}, "general.architecture"),
        ({"m.gguf": gguf({**VALUES, "general.type": "adapter"})}, "no model but 'adapter'"),
        ({"a.gguf": gguf(), "b.gguf": gguf()}, "the upload has a.gguf, b.gguf"),
        ({"m-00001-of-00002.gguf": FIRST}, "lacks m-00002-of-00002.gguf"),
        ({"m.gguf": FIRST}, "one of 2 parts"),
        (dict(zip(PARTS, reversed(PARTS.values()), strict=True)), "its name says another"),
        (tiny_model(), "llama.cpp serves a"),
    ],
)  # fmt: skip
async def test_what_cannot_be_served_is_refused_with_the_reason(rooms: Rooms, files: Files, said: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=said) as refused:
        await imported(rooms, files)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_another_framework_is_told_what_serves_gguf(rooms: Rooms) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="import it with framework llamacpp"):
        await imported(rooms, {"m.gguf": gguf(), "config.json": b"{}"}, framework=model_pb2.vllm)
    with pytest.raises(grpc.aio.AioRpcError, match="no sound GGUF model"):
        await imported(rooms, {**tiny_model(), "m.gguf": b"GGUF"}, framework=model_pb2.vllm)
