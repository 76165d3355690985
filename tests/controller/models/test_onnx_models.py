"""ONNX models in the registry: what is read of them, and what is refused with the reason."""

import json

import grpc
import pytest
from aiops.models.v1 import model_pb2, model_service_pb2

from tests.fakes.model_files import Files, tiny_model, upload
from tests.fakes.onnx_files import identity, tensor
from tests.fixtures.registry import EDITOR, Rooms
from tests.fixtures.triton import CLASSIFIER

IMAGE_STEP = json.dumps({"input": {"kind": "image"}}).encode()
TRITON = {"framework": model_pb2.triton, "task": model_pb2.Model.cv}


async def imported(rooms: Rooms, files: Files, name: str = "shapes", **fields: object) -> model_pb2.Model:
    request = upload(name, files, **{**TRITON, **fields})
    answer: model_service_pb2.ImportModelResponse = await rooms.models.ImportModel(request, metadata=EDITOR)
    return answer.model


async def test_the_example_is_imported_with_what_its_graph_says(rooms: Rooms) -> None:
    files = {path.name: path.read_bytes() for path in sorted(CLASSIFIER.iterdir())}
    model = await imported(rooms, files)
    assert (model.framework, model.model_format, model.task) == (
        model_pb2.triton,
        model_pb2.Model.onnx,
        model_pb2.Model.cv,
    )
    assert 25_000 < model.metadata.parameters < 35_000


async def test_a_model_repository_is_imported_as_it_is(rooms: Rooms) -> None:
    files = {"config.pbtxt": b'platform: "onnxruntime_onnx"', "1/model.onnx": identity()}
    assert (await imported(rooms, files, "repository")).model_format == model_pb2.Model.onnx


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.onnx": b"no graph at all"}, "model.onnx cannot be served"),
        ({"model.onnx": identity()[:-3]}, "truncated"),
        ({"model.onnx": identity(weights=[tensor("w", [9], "w.onnx_data")])}, "lacks: w.onnx_data"),
        ({"model.onnx": identity(), "serving.json": b"{"}, "not readable JSON"),
        ({"model.onnx": identity(), "serving.json": IMAGE_STEP}, "an image is fed"),
        ({"net.onnx": identity()}, "Triton serves a model.onnx"),
        (tiny_model(), "Triton serves a model.onnx"),
        ({"config.pbtxt": b'backend: "python"', "1/model.py": b"", "1/w.onnx": identity()}, "no code of their own"),
    ],
)  # fmt: skip
async def test_what_cannot_be_served_is_refused_with_the_reason(rooms: Rooms, files: Files, said: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=said) as refused:
        await imported(rooms, files)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
