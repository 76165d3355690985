"""What Triton's launch plan says: its repository, its options, and how its end is explained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from node_agent.engines.engine import (
    EngineOptionError,
    EngineOptions,
    EngineSpec,
    FailureReason,
    NotServableError,
    ServedNameError,
)
from node_agent.engines.prepare import prepare
from node_agent.engines.triton import Triton
from tests.fakes.onnx_files import identity
from tests.fixtures.triton import CLASSIFIER

ENVIRONMENT = {"PATH": "/usr/bin", "AIOPS_ADMIN_PASSWORD": "secret"}


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    (model_dir / "model.onnx").write_bytes(identity())
    ports = {"grpc": 18001, "metrics": 18002}
    return EngineSpec("twice", model_dir, tmp_path / "run", "127.0.0.1", 18000, more_ports=ports)


@pytest.fixture
def triton(tmp_path: Path) -> Triton:
    """A server whose directory has no ONNX backend."""
    executable = tmp_path / "triton" / "bin" / "tritonserver"
    (tmp_path / "triton" / "backends" / "python").mkdir(parents=True)
    return Triton(executable, ENVIRONMENT, cpu_count=3)


def config(spec: EngineSpec) -> str:
    return (spec.run_dir / "models" / spec.served_name / "config.pbtxt").read_text()


def test_a_graph_is_run_by_the_python_backend_with_strict_tensors(triton: Triton, spec: EngineSpec) -> None:
    prepare(triton.plan(spec))
    text = config(spec)
    assert 'backend: "python"' in text
    assert 'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }' in text
    assert 'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }' in text
    assert "dynamic_batching { max_queue_delay_microseconds: 1000 }" in text
    assert f'key: "model" value: {{ string_value: "{spec.model_dir}/model.onnx" }}' in text
    version = spec.run_dir / "models" / "twice" / "1"
    assert {path.name for path in version.iterdir()} == {"model.py", "model_inputs.py", "model_outputs.py"}


def test_a_server_with_the_onnx_backend_runs_it_itself(triton: Triton, spec: EngineSpec, tmp_path: Path) -> None:
    (tmp_path / "triton" / "backends" / "onnxruntime").mkdir()
    prepare(triton.plan(spec))
    assert 'platform: "onnxruntime_onnx"' in config(spec)
    assert (spec.run_dir / "models" / "twice" / "1" / "model.onnx").samefile(spec.model_dir / "model.onnx")
    prepare(Triton(Path("tritonserver"), ENVIRONMENT).plan(spec))
    assert 'platform: "onnxruntime_onnx"' in config(spec), "NVIDIA's image has the backend"


def test_a_backend_that_goes_leaves_the_model_as_it_was(triton: Triton, spec: EngineSpec, tmp_path: Path) -> None:
    (tmp_path / "triton" / "backends" / "onnxruntime").mkdir()
    prepare(triton.plan(spec))
    (tmp_path / "triton" / "backends" / "onnxruntime").rmdir()
    prepare(triton.plan(spec))
    assert [path.name for path in spec.model_dir.iterdir()] == ["model.onnx"]


def test_batching_is_as_the_serving_file_says(triton: Triton, spec: EngineSpec) -> None:
    batching = {"max_batch_size": 32, "preferred_batch_sizes": [8, 16], "max_queue_delay_us": 500}
    (spec.model_dir / "serving.json").write_text(json.dumps({"batching": batching, "instances": 2}))
    prepare(triton.plan(spec))
    text = config(spec)
    assert "max_batch_size: 32" in text
    expected = "max_queue_delay_microseconds: 500 preferred_batch_size: 8 preferred_batch_size: 16"
    assert f"dynamic_batching {{ {expected} }}" in text
    assert "instance_group { count: 2 kind: KIND_CPU }" in text


def test_a_deployment_chooses_its_batching(triton: Triton, spec: EngineSpec) -> None:
    (spec.model_dir / "serving.json").write_text(
        '{"batching": {"max_queue_delay_us": 7, "preferred_batch_sizes": [9]}}'
    )
    extra = {"max_batch_size": "8", "preferred_batch_sizes": "2,4", "instances": "2"}
    prepare(triton.plan(replace(spec, options=EngineOptions(extra=extra))))
    text = config(spec)
    assert "max_batch_size: 8" in text
    expected = "max_queue_delay_microseconds: 7 preferred_batch_size: 2 preferred_batch_size: 4"
    assert f"dynamic_batching {{ {expected} }}" in text
    prepare(triton.plan(replace(spec, options=EngineOptions(extra={"max_batch_size": "3"}))))
    assert "preferred" not in config(spec)


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(context_tokens=100),
        EngineOptions(extra={"model-repository": "/etc"}),
        EngineOptions(extra={"max_batch_size": "many"}),
        EngineOptions(extra={"max_batch_size": "-1"}),
    ],
)
def test_an_option_that_is_none_is_refused(triton: Triton, spec: EngineSpec, options: EngineOptions) -> None:
    with pytest.raises((EngineOptionError, NotServableError)):
        triton.plan(replace(spec, options=options))


def test_a_graph_of_fixed_shape_is_not_batched_and_a_number_alone_is_reshaped(triton: Triton, spec: EngineSpec) -> None:
    (spec.model_dir / "model.onnx").write_bytes(identity([1, 4], gives=("y", 1, [])))
    prepare(triton.plan(spec))
    text = config(spec)
    assert "max_batch_size: 0" in text
    assert "dynamic_batching" not in text
    assert "dims: [ 1, 4 ]" in text
    assert "dims: [ 1 ] reshape: { shape: [ ] }" in text


def test_a_model_repository_is_linked_under_the_served_name(triton: Triton, spec: EngineSpec) -> None:
    (spec.model_dir / "config.pbtxt").write_text('name: "theirs"\nbackend: "python"\nmax_batch_size: 0\n')
    (spec.model_dir / "1").mkdir()
    plan = triton.plan(spec)
    prepare(plan)
    assert config(spec).startswith('name: "twice"\n')
    assert "theirs" not in config(spec)
    assert (spec.run_dir / "models" / "twice" / "1").samefile(spec.model_dir / "1")
    assert plan.ready.method == "GET", "nothing is known of its tensors"


def test_the_plan_names_its_ports_probes_and_private_paths(triton: Triton, spec: EngineSpec) -> None:
    plan = triton.plan(spec)
    assert {"--http-port=18000", "--grpc-port=18001", "--metrics-port=18002"} <= set(plan.argv)
    assert plan.grpc_port == 18001
    assert plan.inference_path == "/v2/models/twice/infer"
    assert plan.health.url.endswith("/v2/health/ready")
    assert json.loads(plan.ready.body)["inputs"][0]["data"] == [0, 0, 0, 0]
    assert {"/v2/repository", "/v2/models/twice/trace"} <= set(plan.private_paths)
    assert "secret" not in plan.env.values()


def test_a_graph_with_open_sizes_is_probed_without_a_request(triton: Triton, spec: EngineSpec) -> None:
    (spec.model_dir / "model.onnx").write_bytes(identity(["batch", "length"]))
    assert triton.plan(spec).ready.method == "GET"


@pytest.mark.parametrize("name", ["vision/shapes", "..", "", "a b", "-x", 'x"y'])
def test_a_name_that_is_no_directory_is_refused(triton: Triton, spec: EngineSpec, name: str) -> None:
    with pytest.raises(ServedNameError):
        triton.plan(replace(spec, served_name=name))


@pytest.mark.parametrize(("content", "said"), [(b"", "no graph"), (None, "has neither")])
def test_what_is_no_model_is_refused(triton: Triton, spec: EngineSpec, content: bytes | None, said: str) -> None:
    (spec.model_dir / "model.onnx").unlink()
    if content is not None:
        (spec.model_dir / "model.onnx").write_bytes(content)
    with pytest.raises(NotServableError, match=said):
        triton.plan(spec)


def test_a_cards_model_runs_on_it(triton: Triton, spec: EngineSpec) -> None:
    spec = replace(spec, gpu_devices=("1",), model_dir=CLASSIFIER)
    plan = triton.plan(spec)
    prepare(plan)
    assert "kind: KIND_GPU" in config(spec)
    assert plan.env["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("Failed to allocate memory for requested buffer of size 9", FailureReason.OUT_OF_MEMORY),
        ("Unavailable - Socket '127.0.0.1:8000' already in use ", FailureReason.PORT_IN_USE),
        ("ModuleNotFoundError: No module named 'onnxruntime'", FailureReason.ENGINE_UNAVAILABLE),
        ("Internal: unable to find backend library for backend 'onnxruntime'", FailureReason.ENGINE_UNAVAILABLE),
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.", FailureReason.NOT_A_MODEL),
        ("error: creating server: Internal - failed to load all models", FailureReason.NOT_A_MODEL),
        ("CUDA error: out of memory", FailureReason.OUT_OF_MEMORY),
        ("nothing of note", FailureReason.ENGINE_FAILED),
    ],
)
def test_an_end_is_explained(triton: Triton, log: str, reason: FailureReason) -> None:
    diagnosis = triton.diagnose(1, log)
    assert diagnosis.reason is reason
    assert diagnosis.suggestion
