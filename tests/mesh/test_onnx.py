"""What is read of ONNX files, and how they may be served."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.onnx.graph import ANY, Graph, OnnxError, OnnxReader, Tensor, read_graph
from mesh.onnx.serving import Batching, ServingError, serving_of
from tests.fakes.onnx_files import BYTES, FLOAT, INT64, declared, field, identity, tensor
from tests.fixtures.triton import CLASSIFIER, RECOGNISER

IMAGE = Graph((Tensor("image", "FP32", (ANY, 3, 8, 8)),), (Tensor("scores", "FP32", (ANY, 2)),))
SOUND = Graph((Tensor("audio", "FP32", (ANY, ANY)),), (Tensor("scores", "FP32", (ANY, ANY, 3)),))

FIXED = Graph((Tensor("x", "FP32", (1,)),), SOUND.outputs)


def read(content: bytes, at_once: int = 0) -> Graph:
    reader = OnnxReader()
    for start in range(0, len(content), at_once or max(1, len(content))):
        reader.feed(content[start : start + (at_once or len(content))])
    return reader.finish()


def test_the_examples_say_what_they_take_and_give() -> None:
    classifier = read_graph(CLASSIFIER / "model.onnx")
    assert classifier.inputs == (Tensor("image", "FP32", (ANY, 1, 32, 32)),)
    assert classifier.outputs == (Tensor("scores", "FP32", (ANY, 6)),)
    assert 25_000 < classifier.parameters < 35_000
    recogniser = read_graph(RECOGNISER / "model.onnx")
    assert recogniser.inputs == (Tensor("audio", "FP32", (ANY, ANY)),)
    assert recogniser.outputs == (Tensor("scores", "FP32", (ANY, ANY, 11)),)


def test_the_same_is_read_byte_by_byte() -> None:
    content = identity(weights=[tensor("w", [2, 3]), tensor("bias", [5], "more.onnx_data")])
    assert read(content, 1) == read(content)
    assert read(content).parameters == 11
    assert read(content).external_files == {"more.onnx_data"}


def test_weights_among_the_inputs_are_none() -> None:
    assert [each.name for each in read(identity(weights=[tensor("w", [2, 3])], old=True)).inputs] == ["x"]


@pytest.mark.parametrize(("element", "datatype"), [(FLOAT, "FP32"), (INT64, "INT64"), (BYTES, "BYTES")])
def test_types_have_the_protocols_names(element: int, datatype: str) -> None:
    assert read(identity(gives=("y", element, [3]))).outputs == (Tensor("y", datatype, (3,)),)


def test_no_part_of_a_model_passes_for_a_whole_one() -> None:
    content = identity(weights=[tensor("w", [2, 3])])
    for end in range(len(content)):
        with pytest.raises(OnnxError):
            read(content[:end])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no graph"),
        (b"\x80\x02}q\x00.", "no protobuf|truncated"),
        (identity(gives=("y", 99, [1])), "element type"),
        (field(7, field(12, declared("y", FLOAT, None))), "no shape"),
        (field(7, field(12, field(1, b"y") + field(2, field(4, b"")))), "only tensors"),
        (identity(weights=[tensor("w", [1], "../../etc/passwd")]), "outside the model"),
        (identity(weights=[tensor("w", [1], "/etc/passwd")]), "outside the model"),
        (field(7, b"\x5a\xff\xff\xff\x7f"), "truncated|declaration"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, said: str) -> None:
    with pytest.raises(OnnxError, match=said):
        read(content)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    content = identity(weights=[tensor("w", [2, 3])])
    for each in (noise, content[:at] + noise + content[at:]):
        try:
            read(each, 7)
        except OnnxError as error:
            assert str(error)


def test_tensors_with_an_open_first_size_are_batched() -> None:
    plain = serving_of(IMAGE)
    assert plain.inputs == (Tensor("image", "FP32", (3, 8, 8)),)
    assert plain.batching.max_batch_size > 1
    fixed = serving_of(Graph((Tensor("x", "FP32", (1, 4)),), (Tensor("y", "FP32", (1, 2)),)))
    assert (fixed.inputs[0].shape, fixed.batching.max_batch_size) == ((1, 4), 0)


def test_pictures_and_recordings_go_in_and_words_come_out() -> None:
    labels = {"input": {"kind": "image"}, "output": {"kind": "labels", "labels": ["cat", "dog"]}}
    serving = serving_of(IMAGE, json.dumps(labels).encode())
    assert serving.inputs == (Tensor("image", "BYTES", (1,)),)
    assert serving.outputs == (Tensor("label", "BYTES", (2,)), Tensor("score", "FP32", (2,)))
    words = {
        "batching": {"max_batch_size": 4},
        "input": {"kind": "audio"},
        "output": {"kind": "ctc", "symbols": ["", "a", "b"]},
    }
    serving = serving_of(SOUND, json.dumps(words).encode())
    assert (serving.inputs[0].name, serving.outputs) == ("audio", (Tensor("text", "BYTES", (1,)),))
    assert serving.batching == Batching(4)


@pytest.mark.parametrize(
    ("graph", "serving", "said"),
    [
        (IMAGE, {"max_batch": 3}, "unknown max_batch"),
        (IMAGE, {"batching": {"max_batch_size": -1}}, "max_batch_size must be"),
        (IMAGE, {"batching": {"max_batch_size": True}}, "max_batch_size must be"),
        (IMAGE, {"batching": {"max_batch_size": 2, "preferred_batch_sizes": [4]}}, "from 1 to max_batch_size"),
        (FIXED, {"batching": {"max_batch_size": 2}}, "x FP32 .1. has a fixed"),
        (IMAGE, {"output": {"kind": "labels", "labels": ["cat"]}}, "1 labels need"),
        (IMAGE, {"input": {"kind": "audio"}}, "audio is fed to"),
        (SOUND, {"input": {"kind": "image"}}, "an image is fed to"),
        (IMAGE, {"input": {"kind": "image", "std": [0, 1, 1]}}, "must not be 0"),
        (IMAGE, {"input": {"kind": "image", "mean": [0.5]}}, "3 numbers"),
        (IMAGE, {"input": {"kind": "video"}}, "tensor, image or audio"),
        (IMAGE, {"batching": {"max_batch_size": 0}, "input": {"kind": "image"}}, "and batching"),
        (IMAGE, [], "JSON object"),
        (Graph((), ()), {}, "no inputs"),
    ],
)  # fmt: skip
def test_a_serving_file_that_does_not_fit_is_refused_with_the_reason(graph: Graph, serving: Any, said: str) -> None:
    with pytest.raises(ServingError, match=said):
        serving_of(graph, json.dumps(serving).encode())


def test_the_examples_serving_files_fit_their_graphs() -> None:
    for folder in (CLASSIFIER, RECOGNISER):
        assert serving_of(read_graph(folder / "model.onnx"), (folder / "serving.json").read_bytes()).steps


def test_a_file_on_disk_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(identity())
    assert read_graph(tmp_path / "model.onnx").inputs == (Tensor("x", "FP32", (ANY, 4)),)
