"""Every event of the area has its message, topic and key, and is JSON that a REST client reads."""

import json
import typing
from datetime import UTC, datetime

import pytest

from controller.events import envelopes
from controller.nodes import events
from controller.nodes.devices import GpuDevice
from controller.nodes.encodings import EVENTS, TOPIC
from controller.nodes.events import NodeEvent
from controller.nodes.model import Gauges, Node, NodeId
from mesh.identity import OrgId, UserId

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NODE_ID, ORG = NodeId("node-1"), OrgId("org-1")
NODE = Node(
    node_id=NODE_ID,
    name="gpu-1",
    org_id=ORG,
    user_id=UserId("user-1"),
    created_at=AT,
    changed_at=AT,
    last_heartbeat=AT,
    gauges=Gauges(gpu_devices=(GpuDevice("0", "A100", 81920, 80000, 5, 40),), ram_free=8000, disk_free=9000),
)
EXAMPLES: list[NodeEvent] = [
    events.NodeRegistered(NODE, AT),
    events.NodeReadingTaken(NODE_ID, NODE.gauges, AT),
    events.NodeDisconnected(NODE_ID, ORG, "the connection was lost", AT),
    events.NodeCameOnline(NODE, AT),
    events.NodeWentOffline(NODE, "the lease ran out", AT),
    events.NodeMaintenanceChanged(NODE_ID, ORG, True, AT),
    events.NodeRemoved(NODE_ID, ORG, UserId("user-1"), AT),
    events.WorkloadAssigned(NODE_ID, ORG, "r", "j", "m", "vllm", "s3://b/m", "image", "0,1", "8g", "8001:8000", AT),
    events.WorkloadEnded(NODE_ID, ORG, "r", "c", AT),
    events.CommandAcknowledged(NODE_ID, ORG, "r", "rejected", "no room", AT),
    events.DeploymentProgressed(NODE_ID, ORG, "d", "r", "j", "downloading", 45, "c", "", AT),
    events.ContainerChanged(NODE_ID, ORG, "c", "oom", 137, "out of memory", AT),
]


def test_every_event_has_an_example_and_an_encoding() -> None:
    assert {type(each) for each in EXAMPLES} == set(typing.get_args(NodeEvent)) == set(EVENTS)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_names_its_type_and_node(event: NodeEvent) -> None:
    (envelope,) = envelopes(EVENTS, [event], AT, "")
    told = json.loads(envelope.value)
    assert (envelope.topic, envelope.key, envelope.time) == (TOPIC, NODE_ID, AT)
    assert told["type"] == envelope.type
    assert told["nodeId"] == NODE_ID
    assert told.get("timestamp", AT.timestamp() * 1000) == AT.timestamp() * 1000


def test_readings_are_numbers_as_the_events_have_them() -> None:
    (envelope,) = envelopes(EVENTS, [events.NodeReadingTaken(NODE_ID, NODE.gauges, AT)], AT, "")
    metrics = json.loads(envelope.value)["metrics"]
    assert metrics["gpuDevices"] == [{"deviceId": "0", "memoryFree": 80000, "utilization": 5, "temperature": 40}]
    assert (metrics["ramFree"], metrics["diskFree"]) == (8000, 9000)
