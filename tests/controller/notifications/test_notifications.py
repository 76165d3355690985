"""People hear once of what matters, as events on aiops.system.v1."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from aiokafka import ConsumerRecord
from aiops.deployments.v1 import deployment_events_pb2 as deployments_pb
from aiops.models.v1 import model_events_pb2 as models_pb
from aiops.nodes.v1 import node_events_pb2 as nodes_pb
from aiops.quotas.v1 import quota_events_pb2 as quotas_pb
from aiops.routing.v1 import rollout_pb2 as rollout_pb
from aiops.routing.v1 import route_events_pb2 as routing_pb
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from controller.notifications.consume import notification_consumer
from controller.notifications.service import Notifications
from mesh.clock import SystemClock
from mesh.events.cloudevents import headers_of
from mesh.events.kafka import Kafka, Record
from mesh.events.outbox import Envelope
from mesh.events.publisher import KafkaPublisher
from mesh.events.relay import Relay
from mesh.identity import new_id
from mesh.loops import Wake
from mesh.sql.database import Database
from mesh.telemetry import Telemetry
from tests.mesh.events.records import envelope, header, reading, write

TOPIC = "aiops.system.v1"
AT_MS = 1_800_000_000_000.0


def event(topic: str, key: str, message: Message) -> Envelope:
    value = MessageToJson(message, indent=None)
    return replace(envelope(topic, key, 0, json.loads(value)["type"]), event_id=new_id("event"), value=value)


def status(deployment_id: str, state: str, error: str = "", endpoint: str = "") -> Envelope:
    message = deployments_pb.DeploymentStatus(
        type="system.deploymentStatus",
        deployment_id=deployment_id,
        status=state,
        error=error,
        endpoint=endpoint,
        timestamp=AT_MS,
    )
    return event("aiops.deployments.v1", deployment_id, message)


@asynccontextmanager
async def platform(database: Database, servers: str, telemetry: Telemetry) -> AsyncIterator[None]:
    """The relay and the consumer, as the controller runs them."""
    kafka, wake = Kafka(servers), Wake()
    relay = Relay(database, KafkaPublisher(kafka), telemetry, wake=wake)
    consumer = notification_consumer(
        Notifications(), database=database, kafka=kafka, telemetry=telemetry, clock=SystemClock(), relay=wake
    )
    running = [asyncio.ensure_future(relay.run()), asyncio.ensure_future(consumer.run())]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def notifications(servers: str, subjects: set[str], count: int) -> list[ConsumerRecord]:
    found: list[ConsumerRecord] = []
    async with asyncio.timeout(60):
        await Kafka(servers).ensure_topics([TOPIC])
        async with reading(servers, [TOPIC]) as consumer:
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [record for record in records if record.key.decode() in subjects]
    return found


async def deliver_again(servers: str, sent: Envelope) -> None:
    publisher = KafkaPublisher(Kafka(servers))
    record = Record(sent.topic, sent.key.encode(), sent.value.encode(), headers_of(sent))
    assert (await publisher.publish([record])).error == ""
    await publisher.close()


def told_of_failure(deployment_id: str) -> dict[str, object]:
    return {
        "type": "system.notification",
        "level": "error",
        "title": "Deployment failed",
        "message": f"Deployment {deployment_id} has failed: out of memory",
        "action": "deploymentFailed",
        "metadata": {"deploymentId": deployment_id, "status": "failed"},
        "timestamp": AT_MS,
    }


async def test_each_occurrence_is_told_once_in_the_order_of_its_entity(
    events_database: Database, kafka: str, telemetry: Telemetry
) -> None:
    prefixes = ("deployment", "deployment", "model", "node", "gateway", "quota", "rollout")
    everyone = one, two, model, node, gateway, budget, rollout = [new_id(prefix) for prefix in prefixes]
    created = deployments_pb.DeploymentCreated(
        type="system.deploymentCreated", deployment_id=one, model_id=model, node_id=node, timestamp=AT_MS
    )
    downloaded = models_pb.ModelDownloaded(type="system.modelDownloaded", model_id=model, size_mb=7.5, timestamp=AT_MS)
    refused = routing_pb.RoutingRefused(type="system.routingRefused", subject="it", reported_by=gateway)
    offline = nodes_pb.NodeOffline(type="system.node.offline", node_id=node, reason="no heartbeat", timestamp=AT_MS)
    reached = quotas_pb.BudgetReached(type="system.budgetReached", quota_id=budget, percent=80, timestamp=AT_MS)
    back = rollout_pb.RolloutDecision(action=rollout_pb.RolloutDecision.roll_back, reason="it failed")
    rolled = routing_pb.RolloutChanged(
        type="system.rolloutChanged", rollout_id=rollout, rollout=rollout_pb.Rollout(decisions=[back]), timestamp=AT_MS
    )
    written = [
        event("aiops.models.v1", model, downloaded),
        event("aiops.deployments.v1", one, created),
        status(one, "deploying"),
        ready := status(one, "running", endpoint="/models/tiny/abc/v1/inference"),
        status(two, "failed", error="out of memory"),
        event("aiops.nodes.v1", node, offline),
        event("aiops.routing.v1", gateway, refused),
        event("aiops.quotas.v1", budget, reached),
        event("aiops.routing.v1", rollout, rolled),
    ]
    async with platform(events_database, kafka, telemetry):
        await write(events_database, *written)
        await notifications(kafka, set(everyone), 8)
        await deliver_again(kafka, ready)
        await write(events_database, status(one, "stopped"))
        records = await notifications(kafka, set(everyone), 9)
    told = [(record.key.decode(), json.loads(record.value)["action"]) for record in records]
    assert set(told) == {
        (model, "modelDownloaded"),
        (one, "deploymentStarted"),
        (one, "modelReady"),
        (one, "deploymentStopped"),
        (two, "deploymentFailed"),
        (node, "nodeOffline"),
        (gateway, "routingRefused"),
        (budget, "budgetReached"),
        (rollout, "rolloutRolledBack"),
    }
    assert len(told) == len(set(told))
    assert [each for key, each in told if key == one] == ["deploymentStarted", "modelReady", "deploymentStopped"]
    (failed,) = (record for record in records if record.key.decode() == two)
    assert header(failed, "ce_type") == "system.notification"
    assert json.loads(failed.value) == told_of_failure(two)
