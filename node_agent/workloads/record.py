"""Records of workloads as JSON documents, for the journal, and back."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from node_agent.cache.model import Artifact, ArtifactFile
from node_agent.engines.engine import EngineOptions, Program, UnsupportedField
from node_agent.runtime.model import Instance
from node_agent.workloads.model import (
    AdapterStatus,
    EngineFacts,
    Failure,
    Goal,
    Process,
    Readiness,
    Record,
    WorkloadAdapter,
    WorkloadId,
    WorkloadKey,
    WorkloadSpec,
)

Json = dict[str, Any]


def record_to_json(record: Record) -> Json:
    """The record as plain JSON."""
    document = asdict(record)
    document["spec"]["drain"] = record.spec.drain.total_seconds()
    for holder in (document["spec"], *document["spec"]["adapters"]):
        for file in holder["artifact"]["files"]:
            # Only who fetches needs the chunks, and the controller tells them anew.
            del file["chunk_bytes"], file["chunk_sha256s"]
    if record.process:
        document["process"]["started_at"] = record.process.started_at.isoformat()
    return document


def record_from_json(document: Json) -> Record:
    """The record that `record_to_json` wrote."""
    return Record(
        spec=_spec(document["spec"]),
        process=_process(document["process"]) if document["process"] else None,
        failure=Failure(**document["failure"]) if document["failure"] else None,
        restarts=document["restarts"],
        failures=document["failures"],
        adapters=tuple(AdapterStatus(**each) for each in document.get("adapters", ())),
    )


def _spec(document: Json) -> WorkloadSpec:
    adapters = (WorkloadAdapter(each["name"], _artifact(each["artifact"])) for each in document.get("adapters", ()))
    return WorkloadSpec(
        **document
        | {
            "key": WorkloadKey(WorkloadId(document["key"]["workload_id"]), document["key"]["replica"]),
            "goal": Goal(document["goal"]),
            "artifact": _artifact(document["artifact"]),
            "gpu_devices": tuple(document["gpu_devices"]),
            "drain": timedelta(seconds=document["drain"]),
            "options": EngineOptions(**document.get("options", {})),
            "adapters": tuple(adapters),
            "program": _program(document.get("program") or {}),
        }
    )


def _artifact(document: Json) -> Artifact:
    return Artifact(document["url"], tuple(ArtifactFile(**each) for each in document["files"]))


def _program(document: Json) -> Program:
    return Program(**document | {"command": tuple(document.get("command", ()))})


def _process(document: Json) -> Process:
    return Process(
        **document
        | {
            "instance": Instance(**document["instance"]),
            "started_at": datetime.fromisoformat(document["started_at"]),
            "readiness": Readiness(**document["readiness"]),
            "facts": _facts(document["facts"]) if document["facts"] else None,
            "more_ports": tuple(document.get("more_ports", ())),
        }
    )


def _facts(document: Json) -> EngineFacts:
    fields = (UnsupportedField(each["path"], tuple(each["harmless_values"])) for each in document["unsupported_fields"])
    return EngineFacts(
        document["inference_path"],
        tuple(fields),
        tuple(document.get("private_paths", ())),
        document.get("grpc_port", 0),
        document.get("single_use_connections", False),
    )
