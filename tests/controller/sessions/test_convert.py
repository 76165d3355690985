"""Every value of the contract's enums has its word in the model, and the other way round."""

import pytest
from aiops.nodes.v1 import node_pb2
from aiops.nodes.v1 import node_session_service_pb2 as pb

from controller.deployments.workload import (
    AdapterReport,
    ArtifactFile,
    DesiredAdapter,
    DesiredChange,
    DesiredWorkload,
    EngineOptions,
    Goal,
    HealthStatus,
    Program,
    UnsupportedField,
    WorkloadState,
)
from controller.nodes.convert import roles_from_proto, status_from_proto
from controller.nodes.model import NodeId, NodeRole, NodeStatus
from controller.sessions.convert import desired_to_proto, report_from_proto
from mesh.errors import InvalidRequestError

NODE = NodeId("node-1")
WANTED = DesiredWorkload(
    workload_id="deployment-1",
    epoch=3,
    goal=Goal.RUN,
    revision=7,
    container_name="model-tiny-1",
    model_id="model-1",
    served_name="tiny",
    framework="custom",
    task="llm",
    job_id="job-1",
    request_id="request-1",
    replica=2,
    artifact_url="file:///objects/models/model-1",
    files=(ArtifactFile("model.safetensors", 2**40, "ab" * 32),),
    port=8001,
    gpu_devices=("0", "1"),
    memory_limit_mb=8192,
    image="vllm/vllm-openai:latest",
    drain_seconds=10,
    environment={"A": "b"},
    program=Program(("serve", "{port}"), "/up", "/ask"),
    options=EngineOptions("hermes", 2, {"dtype": "auto"}),
    adapters=(DesiredAdapter("pirate", "file:///objects/models/model-2", (ArtifactFile("a.json", 5, "cd" * 32),)),),
)


def test_every_status_and_role_has_its_word() -> None:
    assert {status_from_proto(each) for each in node_pb2.Node.Status.values()} == {None, *NodeStatus}
    assert set(roles_from_proto(each for each in node_pb2.Node.Role.values() if each)) == set(NodeRole)


def test_every_state_of_a_workload_has_its_word() -> None:
    known = [each for each in pb.WorkloadStatus.State.values() if each]
    states = {report_from_proto(NODE, 1, pb.WorkloadStatus(state=each)).state for each in known}
    assert states == set(WorkloadState)


@pytest.mark.parametrize("raw", [b"", b"\x20\x63"], ids=["unspecified", "unknown"])
def test_a_state_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        report_from_proto(NODE, 1, pb.WorkloadStatus.FromString(raw))


def test_both_goals_have_their_word() -> None:
    for goal in Goal:
        change = DesiredChange(1, True, 0, (DesiredWorkload("w", 1, goal, 1, "", "", "", "", "", "", ""),))
        (workload,) = desired_to_proto(change).desired_state.workloads
        assert pb.WorkloadSpec.Goal.Name(workload.goal) == goal.value


def test_nothing_of_a_desired_workload_is_lost() -> None:
    state = desired_to_proto(DesiredChange(7, False, 6, (WANTED,))).desired_state
    (workload,) = state.workloads
    assert (state.revision, state.snapshot, state.base_revision) == (7, False, 6)
    left_out = {"goal", "revision", "artifact_url", "files", "gpu_devices", "environment", "options", "adapters"}
    left_out |= {"program"}
    for name in set(DesiredWorkload.__dataclass_fields__) - left_out:
        assert getattr(workload, name) == getattr(WANTED, name), name
    assert (workload.artifact.url, list(workload.gpu_devices)) == (WANTED.artifact_url, ["0", "1"])
    assert [(each.path, each.size_bytes, each.sha256) for each in workload.artifact.files] == [
        ("model.safetensors", 2**40, "ab" * 32)
    ]
    assert dict(workload.environment) == {"A": "b"}
    assert (list(workload.command), workload.paths.health, workload.paths.inference) == (
        ["serve", "{port}"],
        "/up",
        "/ask",
    )
    options = workload.engine_options
    assert (options.tool_parser, options.max_adapters, dict(options.extra)) == ("hermes", 2, {"dtype": "auto"})
    (adapter,) = workload.adapters
    assert (adapter.name, adapter.artifact.url) == ("pirate", "file:///objects/models/model-2")
    assert [(each.path, each.size_bytes, each.sha256) for each in adapter.artifact.files] == [("a.json", 5, "cd" * 32)]


def test_what_a_node_reports_is_kept_and_cut() -> None:
    facts = pb.EngineFacts(
        inference_path="/v1/chat/completions",
        unsupported_fields=[pb.UnsupportedField(path="logprobs", harmless_values=["false"])],
    )
    message = pb.WorkloadStatus(
        workload_id="deployment-1",
        epoch=3,
        state=pb.WorkloadStatus.running,
        health="healthy",
        facts=facts,
        log_tail="x" * 9000 + "end",
        event="began to dance",
        exit_code=3,
        adapters=[pb.AdapterStatus(name="pirate", error="too large")],
    )
    report = report_from_proto(NODE, 5, message)
    assert (report.node_id, report.session_epoch, report.epoch) == (NODE, 5, 3)
    assert (report.health, report.inference_path) == (HealthStatus.HEALTHY, "/v1/chat/completions")
    assert report.unsupported_fields == (UnsupportedField("logprobs", ("false",)),)
    assert (len(report.log_tail), report.log_tail[-3:]) == (8192, "end")
    assert (report.event, report.exit_code) == ("", None)
    assert report.adapters == (AdapterReport("pirate", False, "too large"),)
