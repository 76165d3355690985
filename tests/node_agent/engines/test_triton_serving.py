"""The examples and plain graphs, served by a real Triton as its launch plan says."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from node_agent.engines.engine import FailureReason
from node_agent.engines.triton import Triton
from node_agent.engines.triton_live import TritonGauges
from tests.fakes.onnx_files import identity
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.fixtures.triton import (
    CLASSIFIER,
    EXAMPLES,
    RECOGNISER,
    START_TIMEOUT_S,
    TritonServer,
    binary_infer,
    launched,
    outputs_of,
    serving,
    triton_spec,
)

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
SAMPLES = EXAMPLES / "samples"
PYTHON_MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", each * 2)]) for each in tensors]
"""
PYTHON_CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [ 2 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }
"""


@pytest.fixture(scope="module")
def shapes(triton_executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with serving(triton_executable, CLASSIFIER, tmp_path_factory.mktemp("run"), "shapes") as server:
        yield server


@pytest.fixture(scope="module")
def words(triton_executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with serving(triton_executable, RECOGNISER, tmp_path_factory.mktemp("run"), "words") as server:
        yield server


def asked(server: TritonServer, name: str, content: bytes) -> httpx.Response:
    body, headers = binary_infer(name, content)
    return httpx.post(server.url + server.plan.inference_path, content=body, headers=headers, timeout=30)


@pytest.mark.parametrize("label", ["star", "ring"])
def test_a_picture_goes_in_and_classes_come_out(shapes: TritonServer, label: str) -> None:
    found = outputs_of(asked(shapes, "image", (SAMPLES / f"{label}.png").read_bytes()))
    assert found["label"][0] == label
    assert found["score"] == sorted(found["score"], reverse=True)


def test_a_recording_goes_in_and_text_comes_out(words: TritonServer) -> None:
    found = outputs_of(asked(words, "audio", (SAMPLES / "three-one-four.wav").read_bytes()))
    assert found == {"text": ["three one four"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ID3 an MP3 file", "no WAV file"),
        (b"RIFF\0\0\0\0WAVE", "without a format"),
        ((SAMPLES / "three-one-four.wav").read_bytes()[:44], "without a format or without data|without samples"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_reason(words: TritonServer, content: bytes, said: str) -> None:
    answer = asked(words, "audio", content)
    assert answer.status_code == 400
    assert any(each in answer.json()["error"] for each in said.split("|"))


def test_the_plans_probe_is_a_real_inference(shapes: TritonServer, words: TritonServer) -> None:
    for server in (shapes, words):
        assert server.plan.ready.method == "POST"
        assert server.metric("nv_inference_request_success") >= 1


async def test_requests_at_once_share_executions_and_a_bad_one_spoils_no_other(shapes: TritonServer) -> None:
    requests, executions = shapes.metric("nv_inference_request_success"), shapes.metric("nv_inference_exec_count")
    star = (SAMPLES / "star.png").read_bytes()
    async with httpx.AsyncClient(base_url=shapes.url, timeout=60, limits=httpx.Limits(max_connections=64)) as client:

        async def ask(content: bytes) -> httpx.Response:
            body, headers = binary_infer("image", content)
            return await client.post(shapes.plan.inference_path, content=body, headers=headers)

        answers = await asyncio.gather(*(ask(b"no picture" if number == 7 else star) for number in range(64)))
    assert [answer.status_code for answer in answers].count(400) == 1
    assert sum(outputs_of(answer)["label"][0] == "star" for answer in answers if answer.status_code == 200) == 63
    assert shapes.metric("nv_inference_request_success") - requests == 64
    assert shapes.metric("nv_inference_exec_count") - executions < 40


def test_the_server_says_how_many_it_has_answered(words: TritonServer) -> None:
    gauges = TritonGauges()
    before = gauges.load(httpx.get(gauges.request(words.url).url).text).requests
    asked(words, "audio", (SAMPLES / "three-one-four.wav").read_bytes())
    assert gauges.load(httpx.get(gauges.request(words.plan.health.url).url).text).requests == before + 1


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ({"name": "z", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}, "unexpected inference input 'z'"),
        ({"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}, "Expected [-1,4], got [1,3]"),
        ({"name": "x", "shape": [1, 4], "datatype": "INT64", "data": [1, 2, 3, 4]}, "expects 'FP32'"),
        ({"name": "x", "shape": [65, 4], "datatype": "FP32", "data": [1] * 260}, "batch-size must be <= 16"),
    ],
)
def test_a_plain_graph_refuses_other_names_shapes_and_types(
    plain: TritonServer, tensor: dict[str, Any], said: str
) -> None:
    answer = httpx.post(plain.url + plain.plan.inference_path, json={"inputs": [tensor]})
    assert answer.status_code == 400
    assert said in answer.json()["error"]


@pytest.fixture(scope="module")
def plain(triton_executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A graph without a serving file."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "model").mkdir()
    (folder / "model" / "model.onnx").write_bytes(identity())
    with serving(triton_executable, folder / "model", folder / "run", "plain") as server:
        yield server


def test_a_plain_graph_takes_and_gives_its_own_tensors(plain: TritonServer) -> None:
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6, 7, 8]}
    answer = httpx.post(plain.url + plain.plan.inference_path, json={"inputs": [tensor]})
    assert outputs_of(answer) == {"y": [1, 2, 3, 4, 5, 6, 7, 8]}


def test_a_model_repository_with_a_program_is_served_as_it_is(triton_executable: Path, tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "1" / "model.py").write_text(PYTHON_MODEL)
    (tmp_path / "model" / "config.pbtxt").write_text(PYTHON_CONFIG)
    with serving(triton_executable, tmp_path / "model", tmp_path / "run", "double") as server:
        tensor = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
        answer = httpx.post(server.url + server.plan.inference_path, json={"inputs": [tensor]})
        assert outputs_of(answer) == {"y": [2, 4]}


@pytest.mark.parametrize(
    ("content", "reason"), [(identity(opset=9999), FailureReason.NOT_A_MODEL)], ids=["an opset of the future"]
)
def test_a_graph_that_the_runtime_cannot_load_is_explained(
    triton_executable: Path, tmp_path: Path, content: bytes, reason: FailureReason
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(content)
    with launched(triton_executable, triton_spec(tmp_path / "model", tmp_path / "run", "bad")) as server:
        returncode = server.process.wait(START_TIMEOUT_S)
        diagnosis = Triton(triton_executable).diagnose(returncode, server.log.read_text()[-8192:])
    assert diagnosis.reason is reason
    assert "opset" in diagnosis.message + diagnosis.suggestion


def test_a_port_that_is_taken_is_explained(shapes: TritonServer, triton_executable: Path, tmp_path: Path) -> None:
    spec = triton_spec(CLASSIFIER, tmp_path / "run", "second")
    spec = replace(spec, more_ports={**spec.more_ports, "grpc": shapes.spec.more_ports["grpc"]})
    with launched(triton_executable, spec) as server:
        returncode = server.process.wait(START_TIMEOUT_S)
        diagnosis = Triton(triton_executable).diagnose(returncode, server.log.read_text()[-8192:])
    assert diagnosis.reason is FailureReason.PORT_IN_USE


def test_nothing_is_written_to_the_models_directory(shapes: TritonServer) -> None:
    assert {path.name for path in CLASSIFIER.iterdir()} <= {"model.onnx", "serving.json", "README.md"}
    assert json.loads((CLASSIFIER / "serving.json").read_bytes())["input"]["kind"] == "image"
